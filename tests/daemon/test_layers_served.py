"""A daemon with layers: an image's baked-in cache serves, READONLY too, and is shown."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.leftovers import until
from mlc_jit import NotCachedError, jit

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from harness.daemons import Daemon, Place
    from harness.doubles import Double

pytestmark = pytest.mark.timeout(90)  # commands one after another: seconds here, more on a full host


@pytest.fixture
def baked(double: Double, place: Place, mlc_jit: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    """A model whose library is in a layer, and in no home."""
    model = double.model()
    assert mlc_jit("compile", model, "--device", "cpu", "--quiet").returncode == 0
    place.end_daemons()
    layer = place.root / "baked"
    (layer / "model_lib").mkdir(parents=True)
    for path in (*place.artifacts(), *place.manifests()):
        shutil.copy2(path, layer / "model_lib" / path.name)
    shutil.rmtree(place.library)
    return model


@pytest.mark.parametrize("policy", ["ON", "READONLY"])
def test_a_baked_library_is_a_hit(
    policy: str,
    baked: Path,
    place: Place,
    double: Double,
    start_daemon: Callable[..., Daemon],
    mlc_jit: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = place.root / "later"
    start_daemon(MLC_JITD_LAYERS=f"{missing}:{place.root}/baked")
    monkeypatch.setenv("MLC_JIT_POLICY", policy)
    for _ in range(3):
        path = jit(baked, {}, "cpu").model_lib_path
        assert Path(path).parent == place.root / "baked/model_lib"
    assert len(double.starts()) == 1
    assert place.artifacts() == []
    (row,) = json.loads(mlc_jit("list", "--json").stdout)
    assert (row["layer"], row["path"]) == (f"{place.root}/baked", path)
    assert f"{place.root}/baked" in mlc_jit("list").stdout
    status = json.loads(mlc_jit("status", "--json").stdout)
    assert [(each["state"], each["entries"]) for each in status["layers"]] == [("missing", 0), ("ok", 1)]
    shown = mlc_jit("status").stdout
    assert f"layer   {place.root}/baked: 1 library" in shown
    assert f"layer   {missing}: missing, there is no folder" in shown


def test_a_library_made_anew_is_everybodys_who_had_the_layers(
    baked: Path, place: Place, start_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_daemon(MLC_JITD_LAYERS=f"{place.root}/baked")
    files = list((place.root / "baked/model_lib").iterdir())
    until(lambda: max(path.stat().st_ctime for path in files) + 2.1 < time.time(), what="the layer to be settled")
    copy = place.root / "copy"
    shutil.copytree(baked, copy)
    for path in (baked, copy, baked, copy):
        assert Path(jit(path, {}, "cpu").model_lib_path).parent == place.root / "baked/model_lib"
    monkeypatch.setenv("MLC_JIT_POLICY", "REDO")
    assert Path(jit(baked, {}, "cpu").model_lib_path).parent == place.library
    monkeypatch.setenv("MLC_JIT_POLICY", "ON")
    assert {Path(jit(path, {}, "cpu").model_lib_path).parent for path in (baked, copy)} == {place.library}


def test_a_layer_that_is_away_is_named_under_readonly(
    baked: Path, place: Place, start_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_daemon(MLC_JITD_LAYERS=f"{place.root}/share")
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    with pytest.raises(NotCachedError, match=f"the layer {place.root}/share is not read: there is no folder"):
        jit(baked, {}, "cpu")


def test_a_layer_that_only_the_daemon_sees_is_made_up_for_in_the_home(
    baked: Path,
    place: Place,
    double: Double,
    start_daemon: Callable[..., Daemon],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    start_daemon(MLC_JITD_LAYERS=f"{place.root}/baked")
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: f"{place.root}/baked" not in str(path) and exists(path))
    for _ in range(3):
        assert Path(jit(baked, {}, "cpu").model_lib_path).parent == place.library
    assert len(double.starts()) == 2, "once where it was baked, once for the home"
    (warning,) = [each.getMessage() for each in caplog.records if "going on without a daemon" in each.getMessage()]
    assert f"Mount {place.root}/baked" in warning


def test_damage_in_a_layer_is_named_under_readonly_and_compiled_over_else(
    baked: Path, place: Place, double: Double, start_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    (artifact,) = (place.root / "baked/model_lib").glob("*-*")
    artifact.chmod(0o644)
    artifact.write_bytes(b"damaged")
    start_daemon(MLC_JITD_LAYERS=f"{place.root}/baked")
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    with pytest.raises(NotCachedError) as refused:
        jit(baked, {}, "cpu")
    assert refused.value.reason == "damaged"
    monkeypatch.setenv("MLC_JIT_POLICY", "ON")
    path = jit(baked, {}, "cpu").model_lib_path
    assert Path(path).parent == place.library
    assert len(double.starts()) == 2
    assert artifact.read_bytes() == b"damaged"


def test_the_fallback_without_a_daemon_reads_layers_too(
    baked: Path, place: Place, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_JITD_LAYERS", f"{place.root}/baked")
    monkeypatch.setenv("MLC_JITD_SOCKET", "/nowhere/at/all.sock")
    path = jit(baked, {}, "cpu").model_lib_path
    assert Path(path).parent == place.root / "baked/model_lib"
    assert len(double.starts()) == 1


def test_explain_and_the_doctor_know_layers(
    baked: Path,
    place: Place,
    double: Double,
    mlc_jit: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = place.root / "baked"
    monkeypatch.setenv("MLC_JITD_LAYERS", f"{layer}:{place.root}/nowhere")
    hit = json.loads(mlc_jit("explain", baked, "--device", "cpu", "--json").stdout)
    assert (hit["hit"], hit["words"]) == (True, f"the library is in the layer {layer}")
    miss = json.loads(mlc_jit("explain", baked, "--device", "cpu", "--opt", "O0", "--json").stdout)
    assert (miss["hit"], miss["compared"], len(miss["nearest"])) == (False, 1, 1)
    findings = json.loads(mlc_jit("doctor", "--json").stdout)["findings"]
    assert [each["level"] for each in findings if each["check"] == "layers"] == ["ok", "note"]
    layer.chmod(0o777)
    done = mlc_jit("doctor", "--json")
    (problem,) = [each for each in json.loads(done.stdout)["findings"] if each["level"] == "problem"]
    assert (done.returncode, problem["check"], problem["remedy"]) == (1, "layers", f"Run: chmod go-w {layer}")
