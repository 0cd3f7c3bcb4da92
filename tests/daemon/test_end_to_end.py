"""A process asks, the daemon compiles once, everyone gets the library: the ordinary days of a cache."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.configs import LLAMA
from harness.daemons import status
from mlc_jit import jit

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double


def test_a_miss_is_compiled_and_then_a_hit(daemon: Daemon, double: Double, client: Clients) -> None:
    model = double.model()
    first = jit(model, {}, "cpu")
    assert Path(first.model_lib_path).is_file()
    assert first.system_lib_prefix is None
    assert client.ask(model).path() == first.model_lib_path
    assert len(double.starts()) == 1
    counters = status().counters
    assert (counters["compiles"], counters["hits"], counters["misses_absent"]) == (1, 1, 1)
    assert [name for name in counters if not re.fullmatch("[a-z][a-z0-9_]*", name)] == []


def test_a_hit_on_a_fresh_daemon_imports_no_compiler(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients
) -> None:
    model = double.model()
    first = start_daemon()
    path = jit(model, {}, "cpu").model_lib_path
    assert first.stop() == 0
    before = double.log.read_text()
    second = start_daemon()
    assert client.ask(model).path() == path
    assert double.log.read_text() == before  # neither resolved nor compiled
    spent = psutil.Process(second.pid).cpu_times()
    assert spent.children_user + spent.children_system == 0  # nor probed: no process was started at all
    assert status().counters["hits"] == 1


def test_what_reaches_the_compiler(daemon: Daemon, double: Double) -> None:
    overrides = {"context_window_size": 64, "max_batch_size": None, "opt": "O1"}
    before = dict(overrides)
    found = jit(double.model(), overrides, "android", "mine")
    assert overrides == before
    assert found.system_lib_prefix == "mine"
    assert found.model_lib_path.endswith(".tar")
    asked = json.loads(Path(found.model_lib_path).read_bytes().splitlines()[-1])
    assert (asked["opt"], asked["prefix"], asked["device"]) == ("O1", "mine_", "android")
    assert "context_window_size=64" in asked["overrides"]
    assert "max_batch_size" not in asked["overrides"]


def test_a_mobile_target_gets_upstreams_prefix(daemon: Daemon, double: Double) -> None:
    found = jit(double.model(), {}, "iphone")
    assert found.system_lib_prefix is not None
    assert found.system_lib_prefix.startswith("llama_q4f32_1_")
    assert jit(double.model(), {}, "iphone") == found


def test_equal_requests_share_an_entry_and_others_do_not(daemon: Daemon, double: Double) -> None:
    model = double.model()
    path = jit(model, {}, "cpu").model_lib_path
    same = [
        jit(double.model("elsewhere"), {}, "cpu"),
        jit(double.model("warmer", temperature=1.3), {}, "cpu"),
        jit(str(model), {"max_batch_size": None}, "cpu:0"),
        jit(model, {"opt": "O2"}, "cpu"),
        jit(model, None, "cpu"),
    ]
    assert {each.model_lib_path for each in same} == {path}
    assert len(double.starts()) == 1
    others = [
        jit(double.model("wider", vocab_size=513), {}, "cpu"),
        jit(double.model("active", active_vocab_size=100), {}, "cpu"),
        jit(model, {"max_batch_size": 2}, "cpu"),
        jit(model, {"opt": "O0"}, "cpu"),
    ]
    assert len({path, *(each.model_lib_path for each in others)}) == 5


def test_a_keyed_variable_is_in_the_key(daemon: Daemon, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    model = double.model()
    first = jit(model, {}, "cpu").model_lib_path
    monkeypatch.setenv("MLC_MULTI_ARCH", "80,90")
    second = jit(model, {}, "cpu").model_lib_path
    assert second != first
    monkeypatch.delenv("MLC_MULTI_ARCH")
    assert jit(model, {}, "cpu").model_lib_path == first


def test_nothing_is_written_to_standard_output(daemon: Daemon, double: Double, client: Clients) -> None:
    asking = client.code("jit(given['model'], {}, 'cpu')", model=double.model(told={"print": ["hello"], "flood": 1}))
    out, _ = asking.process.communicate(timeout=40)
    assert (asking.process.returncode, out) == (0, b"")


def test_progress_comes_in_order(daemon: Daemon, double: Double) -> None:
    seen: list[str] = []
    jit(double.model(), {}, "cpu", on_progress=lambda progress: seen.append(progress.stage))
    known = [stage for stage in seen if stage in ("queued", "start", "model", "export", "publish")]
    assert known[-4:] == ["start", "model", "export", "publish"]


def test_a_relative_home_and_model_are_the_callers(
    daemon: Daemon, double: Double, client: Clients, place: Place
) -> None:
    model = double.model()
    found = client.code(
        "print(json.dumps(jit(given['model'], {}, 'cpu').model_lib_path))",
        {"MLC_LLM_HOME": "c"},
        model=os.path.relpath(model, place.root),
    ).answer()
    assert Path(found).parent == place.library


def test_the_manifest_says_what_the_entry_is(daemon: Daemon, double: Double, place: Place) -> None:
    model = double.model()
    path = jit(model, {}, "cpu").model_lib_path
    (manifest,) = place.manifests()
    facts = json.loads(manifest.read_text())
    assert facts["artifact"] == Path(path).name
    assert facts["key"] == manifest.stem
    assert facts["model"]["path"] == str(model)
    assert set(facts["parts"]) >= {"format", "model", "overrides", "opt", "prefix", "target", "toolchain"}
    assert Path(facts["compile"]["log"]).is_file()
    assert Path(path).stat().st_mode & 0o777 == 0o444


@pytest.mark.tvm
@pytest.mark.timeout(120)  # 10 s on two idle cores
def test_a_real_compile_for_a_caller_with_a_tvm_device(daemon: Daemon, place: Place, client: Clients) -> None:
    tvm = pytest.importorskip("tvm")
    model = place.folder("llama")
    (model / "mlc-chat-config.json").write_text(json.dumps(LLAMA))
    seen: list[str] = []
    path = jit(model, {}, tvm.cpu(0), on_progress=lambda progress: seen.append(progress.stage)).model_lib_path
    assert client.ask(model).path() == path  # the text `cpu`, in a process that has not imported tvm
    assert len(seen) >= 4
    library = tvm.runtime.load_module(path)
    assert library is not None
    assert status().counters["compiles"] == 1
    assert sys.executable in json.dumps(json.loads(place.manifests()[0].read_text()))
