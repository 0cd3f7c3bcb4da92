"""The command lines of both toolchains, and the environment that a compiler gets."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mlc_jitd.toolchains import CompileJob, compiler_environment, toolchain

if TYPE_CHECKING:
    from pathlib import Path

JOB = CompileJob(
    toolchain="mlc_llm",
    python="/usr/bin/python3",
    config=b'{"raw": 1}',
    overrides="max_batch_size=4",
    opt="O3",
    device="android",
    compiler_prefix="my_",
    suffix="tar",
    environment=(("MLC_MULTI_ARCH", "80"), ("PATH", "/bin"), ("TMPDIR", "/theirs")),
)


def test_mlc_llm_is_called_as_upstream_calls_it(tmp_path: Path) -> None:
    command = toolchain("mlc_llm").command(JOB, scratch=tmp_path, output=tmp_path / "lib.tar", cores=2)
    assert command.argv == (
        "/usr/bin/python3", "-P", "-m", "mlc_llm", "compile", str(tmp_path / "model"),
        "--opt", "O3", "--overrides", "max_batch_size=4", "--device", "android",
        "--output", str(tmp_path / "lib.tar"), "--system-lib-prefix", "my_",
    )  # fmt: skip
    assert command.cwd == tmp_path
    assert (tmp_path / "model" / "mlc-chat-config.json").read_bytes() == b'{"raw": 1}'


def test_no_prefix_is_left_to_the_compiler(tmp_path: Path) -> None:
    job = dataclasses.replace(JOB, compiler_prefix=None)
    command = toolchain("mlc_llm").command(job, scratch=tmp_path, output=tmp_path / "lib.tar", cores=1)
    assert "--system-lib-prefix" not in command.argv


def test_the_embedded_toolchain_gets_a_file_and_a_target(tmp_path: Path) -> None:
    job = dataclasses.replace(JOB, toolchain="tvm", device='{"kind":"llvm"}')
    command = toolchain("tvm").command(job, scratch=tmp_path, output=tmp_path / "lib.so", cores=2)
    assert command.argv[:2] == ("/usr/bin/python3", "-P")
    assert command.argv[2].endswith("tvm/inside/compile.py")
    options = dict(zip(command.argv[3::2], command.argv[4::2], strict=True))
    assert options["--target"] == '{"kind":"llvm"}'
    assert options["--threads"] == "2"
    assert options["--config"] == str(tmp_path / "model" / "mlc-chat-config.json")


def test_the_environment_is_declared_and_capped(tmp_path: Path) -> None:
    own = {"HOME": "/home/me", "LANG": "C.UTF-8", "SECRET": "x", "PATH": "/daemon"}
    env = dict(compiler_environment(JOB.environment, scratch=tmp_path, cores=3, own=own))
    assert env["HOME"] == "/home/me"
    assert env["PATH"] == "/bin"
    assert env["MLC_MULTI_ARCH"] == "80"
    assert env["TMPDIR"] == env["MLC_TEMP_DIR"] == str(tmp_path)
    assert env["MLC_LLM_HOME"].startswith(str(tmp_path))
    assert env["PYTHONSAFEPATH"] == "1"
    assert {env[name] for name in ("OMP_NUM_THREADS", "TVM_NUM_THREADS", "MAX_JOBS")} == {"3"}
    assert (env["NVCC_THREADS"], env["FLASHINFER_NVCC_THREADS"]) == ("1", "1"), "as many nvcc as there are jobs"
    assert "SECRET" not in env


def test_the_client_says_its_own_home_where_it_passes_one(tmp_path: Path) -> None:
    env = dict(compiler_environment((("HOME", "/client"),), scratch=tmp_path, cores=1, own={"HOME": "/daemon"}))
    assert env["HOME"] == "/client"


@pytest.mark.parametrize("name", ["mlc_llm", "tvm"])
def test_a_toolchain_knows_its_name(name: str) -> None:
    assert toolchain(name).name == name


def test_a_folder_named_mlc_llm_in_the_working_folder_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "mlc_llm").mkdir()
    (tmp_path / "mlc_llm" / "__main__.py").write_text("print('hijacked')")
    job = dataclasses.replace(JOB, python=sys.executable, environment=())
    command = toolchain("mlc_llm").command(job, scratch=tmp_path, output=tmp_path / "lib.tar", cores=1)
    done = subprocess.run(
        command.argv, env=dict(command.env), cwd=command.cwd, capture_output=True, text=True, check=False, timeout=40
    )
    assert "hijacked" not in done.stdout
