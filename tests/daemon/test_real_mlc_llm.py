"""The real compiler through a real daemon. Minutes; runs where MLC_JITD_TEST_PYTHON names an interpreter that has it.

Its PYTHONPATH, if it needs one, comes from MLC_JITD_TEST_PYTHONPATH. The model has a config of our own.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness.configs import MLC_PYTHON, MLC_PYTHONPATH, QUANTIZED, with_mlc_llm
from harness.leftovers import until
from mlc_jit import CompileError, ConfigInvalidError, jit

pytestmark = with_mlc_llm


@pytest.fixture
def real(monkeypatch):
    monkeypatch.setenv("MLC_JITD_PYTHON", MLC_PYTHON)
    monkeypatch.setenv("PYTHONPATH", MLC_PYTHONPATH)
    monkeypatch.setenv("SKIP_LOADING_MLCLLM_SO", "1")


def test_a_cpu_library_is_compiled_once_and_then_hit(daemon, real, model):
    folder = model(**QUANTIZED)
    stages: list[str] = []
    first = jit(folder, {}, "cpu", on_progress=lambda progress: stages.append(progress.stage))
    again = jit(folder, {}, "cpu:0", on_progress=lambda _progress: stages.append("compiled again"))
    assert first.model_lib_path == again.model_lib_path
    assert first.model_lib_path.endswith(".so")
    assert "code generation" in stages
    assert "compiled again" not in stages


def test_an_android_archive_has_upstreams_prefix(daemon, real, model):
    result = jit(model(**QUANTIZED), {}, "android")
    assert result.system_lib_prefix is not None
    assert result.system_lib_prefix.startswith("llama_q4f32_1_")
    with tarfile.open(result.model_lib_path) as archive:
        objects = [archive.extractfile(member) for member in archive.getmembers()]
        content = b"".join(file.read() for file in objects if file is not None)
    assert f"{result.system_lib_prefix}_".encode() in content


UPSTREAM = """
import json, sys
from pathlib import Path
import tvm
from mlc_llm.interface.jit import jit
folder, *devices = json.loads(sys.argv[1])
devices = [tvm.cpu(0) if device == "a tvm Device" else device for device in devices]
found = [jit(Path(folder), {}, device, skip_log_jit_policy=True).model_lib_path for device in devices]
for path in found:
    assert tvm.runtime.load_module(path) is not None
sys.stderr.write("FOUND " + json.dumps(found))
"""


def upstream(folder: Path, *devices: str, policy: str) -> list[str]:
    """What upstream's own ``jit()`` finds or makes, in a process that has nothing of ours."""
    words = [MLC_PYTHON, "-P", "-c", UPSTREAM, json.dumps([str(folder), *devices])]
    env = {**os.environ, "MLC_JIT_POLICY": policy}
    done = subprocess.run(words, env=env, cwd="/", capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return list(json.loads(done.stderr.rpartition("FOUND ")[2]))


def test_upstreams_own_jit_finds_what_was_compiled_here(daemon, real, model, place):
    folder = model(**QUANTIZED)
    path = jit(folder, {}, "cpu").model_lib_path
    until(lambda: len(list((place.library / ".upstream").glob("*.json"))) == 2, what="copies", limit=300)
    found = upstream(folder, "cpu", "cpu:0", "a tvm Device", policy="READONLY")
    assert len(set(found)) == 2  # a tvm Device is cpu:0 to it, and cpu is another device
    for each in map(Path, found):
        assert (each.parent, each.stat().st_nlink) == (place.library, 1)
        assert each.read_bytes() == Path(path).read_bytes()


def test_what_upstream_left_is_served_where_compiling_is_forbidden(daemon, real, model, monkeypatch, caplog, mlc_jit):
    folder = model(**QUANTIZED)
    (theirs,) = upstream(folder, "cpu", policy="ON")
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    for _ in range(2):
        assert jit(folder, {}, "cpu").model_lib_path == theirs
    warnings = [record.getMessage() for record in caplog.records if "which compiler made it" in record.getMessage()]
    assert len(warnings) == 1
    left = json.loads(mlc_jit("adopt", str(folder), "--device", "cpu", "--json").stdout)
    assert [(each["file"], each["made_by"], each["model"]) for each in left["files"]] == [
        (Path(theirs).name, "unknown", str(folder))
    ]


def test_what_the_compiler_refuses_is_told_with_its_own_cause(daemon, real, model):
    with pytest.raises(ConfigInvalidError, match="llama9000"):
        jit(model(**{**QUANTIZED, "model_type": "llama9000"}), {}, "cpu")
    broken = {**QUANTIZED, "model_config": {**QUANTIZED["model_config"], "num_key_value_heads": 3}}  # type: ignore[dict-item]
    with pytest.raises(CompileError) as failed:
        jit(model("broken", **broken), {}, "cpu")
    assert "assert" in str(failed.value).lower()
    assert failed.value.log_tail


def test_a_library_that_is_compiled_again_computes_the_same(real, model, mlc_jit):
    explicit = '{"kind":"llvm","mtriple":"x86_64-unknown-linux-gnu","mcpu":"x86-64-v3"}'
    compiled = mlc_jit("compile", model(**QUANTIZED), "--device", explicit, "--json", limit=600)
    key = json.loads(compiled.stdout)["key"]
    done = mlc_jit("verify", key, "--recompile", "--json", limit=600)
    (found,) = json.loads(done.stdout)["recompiled"]
    assert (done.returncode, found["verdict"]) == (0, "equal"), found
    functions = found["comparison"]["functions"]
    assert {each["verdict"] for each in functions.values()} == {"equal"}
    assert "batch_verify_to_last_hidden_states" in functions
