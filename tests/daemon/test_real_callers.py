"""Upstream's own callers of ``jit()`` through a real daemon, with the real package. Minutes; see test_real_mlc_llm.py.

The interpreter of MLC_JITD_TEST_PYTHON gets mlc_jit and what it needs as links on its path, so it must be of the same
minor version as the one that runs the tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.configs import MLC_PYTHON, MLC_PYTHONPATH, QUANTIZED, with_mlc_llm

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Daemon, Place

pytestmark = with_mlc_llm

CONFIG: dict[str, Any] = {
    **QUANTIZED,
    "version": "0.1.0",
    "vocab_size": 512,
    "sliding_window_size": -1,
    "attention_sink_size": -1,
    "pipeline_parallel_stages": 1,
    "conv_template": {
        "name": "plain",
        "system_template": "{system_message}",
        "system_message": "",
        "roles": {"user": "user", "assistant": "assistant"},
        "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}"},
        "seps": [" "],
        "stop_str": [],
        "stop_token_ids": [2],
    },
}

IMPORTS = """
import json, sys
from pathlib import Path
import tvm
from mlc_llm.serve import engine_base
from mlc_llm.serve.config import EngineConfig
from mlc_llm.interface import package
"""
ENGINE = """
models = [engine_base.ModelInfo(sys.argv[1], None)]
config = EngineConfig(max_num_sequence=2, prefill_chunk_size=64, max_single_sequence_length=256)
device = sys.argv[2] if len(sys.argv) > 2 else tvm.cpu()
try:
    arguments, _, _ = engine_base._process_model_args(models, device, config)
    print("answer", json.dumps(arguments[0][1]))
except RuntimeError as error:
    print("answer", json.dumps([type(error).__name__, str(error)]))
"""
PACKAGE = """
entry = {"model": sys.argv[1], "model_id": "tiny", "estimated_vram_bytes": 1, "bundle_weight": True}
bundle = Path(sys.argv[2])
found = package.build_model_library({"model_list": [entry]}, "android", bundle, bundle / "app.json")
print("answer", json.dumps(found))
"""


@pytest.fixture
def run(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    links = place.folder("links")
    for name in ("mlc_jit", "zmq", "msgpack", "filelock"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent
        (links / name).symlink_to(source)
        libraries = source.parent / f"py{name}.libs"
        if libraries.exists():
            (links / libraries.name).symlink_to(libraries)
    search = (str(links), MLC_PYTHONPATH)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, search)))
    monkeypatch.setenv("SKIP_LOADING_MLCLLM_SO", "1")
    version = [MLC_PYTHON, "-c", "import sys; print(sys.version_info[:2])"]
    if subprocess.run(version, capture_output=True, text=True, check=True).stdout.strip() != str(sys.version_info[:2]):
        pytest.skip("the interpreter that has mlc_llm is of another version")
    program = place.root / "program.py"

    def start(code: str, *words: str | Path, under_exec: bool = False) -> Any:
        program.write_text(code)
        command = [MLC_PYTHON, os.fspath(program), *map(os.fspath, words)]
        if under_exec:
            command = [sys.executable, "-m", "mlc_jit", "exec", "--require", "--", *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=place.root)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("answer ")]
        return json.loads(line.removeprefix("answer "))

    return start


INSTALL = "import mlc_jit\nmlc_jit.install()\n"


def test_the_engine_and_the_packager_ask_the_daemon(
    daemon: Daemon,
    run: Callable[..., Any],
    model: Callable[..., Path],
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = model(**CONFIG)
    (folder / "tensor-cache.json").write_text('{"records": []}')
    (prefix, archive), *_ = run(INSTALL + IMPORTS + PACKAGE, folder, place.root / "bundle").items()
    assert Path(archive) in place.artifacts()
    assert prefix.startswith("llama_q4f32_1_")
    library = run(IMPORTS + INSTALL + ENGINE, folder, "android")  # the host's own CPU would take minutes
    assert Path(library) in place.artifacts()
    assert len(place.manifests()) == 2
    # What was compiled for install() is a hit for exec, and nothing of upstream's own is there.
    assert run(IMPORTS + ENGINE, folder, "android", under_exec=True) == library
    assert run(IMPORTS + PACKAGE, folder, place.root / "bundle", under_exec=True) == {prefix: archive}
    assert len(place.manifests()) == 2
    # A Device, and what upstream's caller hears of an error.
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    kind, text = run(IMPORTS + ENGINE, folder, under_exec=True)
    assert kind == "NotCachedError"
    assert "mlc-jit compile" in text


def test_the_real_signature_is_the_one_that_is_known(run: Callable[..., Any]) -> None:
    found = run(
        "import json\nfrom mlc_jit import dropin\nfrom mlc_llm.interface import jit\n"
        "print('answer', json.dumps(dropin.difference(jit)))"
    )
    assert found == ""
