"""From the arguments of ``jit()`` to a request: the pure part of the call."""

from __future__ import annotations

import copy
import fcntl
import importlib.util
import io
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlc_jit import api, channel
from mlc_jit import messages as m
from mlc_jit.conversation import does_without, visible
from mlc_jit.errors import (
    AccessRefusedError,
    ConfigInvalidError,
    ConfigNotFoundError,
    DeviceInvalidError,
    JitDisabledError,
    OverrideInvalidError,
    RequestError,
    StoreError,
    ToolchainNotFoundError,
)
from mlc_jit.interrupt import Interrupt, readable
from mlc_jit.locations import locate
from mlc_jit.request import MAX_CONFIG_BYTES


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "mlc-chat-config.json").write_bytes(b'{"model_type": "llama"}')
    return folder


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MLC_", "CUDA_"))]:
        monkeypatch.delenv(name)


def make(model: Path, overrides: Any = None, device: Any = "cpu", prefix: Any = None) -> m.JitRequest:
    return api.make_request(model, overrides, device, prefix, policy="ON")


def test_a_request_holds_everything(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("MY_SECRET", "x")
    request = make(model, {"context_window_size": 5, "opt": "O3", "nothing": None}, "cuda:0", "p_")
    assert request.config == b'{"model_type": "llama"}'
    assert request.model_path == str(model)
    assert request.overrides == {"context_window_size": 5}
    assert (request.opt, request.device, request.system_lib_prefix, request.policy) == ("O3", "cuda:0", "p_", "ON")
    assert (request.python, request.toolchain, request.prewarm) == (sys.executable, "auto", False)
    assert request.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "MY_SECRET" not in request.environment
    assert m.decode(m.encode(request), m.REQUESTS, strict=True) == request


def test_overrides_are_never_changed(model: Path):
    overrides = {"opt": "O2", "context_window_size": 7, "nothing": None}
    before = copy.deepcopy(overrides)
    make(model, overrides)
    assert overrides == before
    assert list(overrides) == list(before)


def test_no_overrides(model: Path):
    assert make(model, None).overrides == make(model, {}).overrides == {}
    assert make(model, {"opt": None}).opt == ""


class Index:
    """As numpy's integers are."""

    def __index__(self) -> int:
        return 4096


def test_an_integer_of_another_library_is_a_number(model: Path):
    request = make(model, {"context_window_size": Index()})
    assert request.overrides == {"context_window_size": 4096}
    assert type(request.overrides["context_window_size"]) is int


@pytest.mark.parametrize("value", [[1], {"a": 1}, object(), b"x", 1j])
def test_an_override_that_is_no_number_is_named(model: Path, value: Any):
    with pytest.raises(OverrideInvalidError, match="context_window_size"):
        make(model, {"context_window_size": value})


def test_opt_and_prefix_must_be_text(model: Path):
    with pytest.raises(OverrideInvalidError, match="opt"):
        make(model, {"opt": 2})
    with pytest.raises(OverrideInvalidError, match="system_lib_prefix"):
        make(model, prefix=5)


def test_off_is_said_before_anything_is_read():
    with pytest.raises(JitDisabledError):
        api.make_request("/does/not/exist", None, object(), None, policy="OFF")


def test_a_relative_model_path_is_made_absolute(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(model.parent)
    assert make(Path("model")).model_path == str(model)


def test_an_interpreter_that_does_not_know_itself(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ToolchainNotFoundError, match="MLC_JITD_PYTHON"):
        make(model)
    monkeypatch.setenv("MLC_JITD_PYTHON", "/opt/python")
    assert make(model).python == "/opt/python"


@pytest.mark.parametrize("choice", ["auto", "mlc_llm", "tvm"])
def test_the_toolchain_may_be_chosen(model: Path, monkeypatch: pytest.MonkeyPatch, choice: str):
    monkeypatch.setenv("MLC_JITD_TOOLCHAIN", choice)
    assert make(model).toolchain == choice


def test_an_unknown_toolchain_is_an_error(model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLC_JITD_TOOLCHAIN", "gcc")
    with pytest.raises(RequestError, match="gcc"):
        make(model)


# --- policy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["ON", "OFF", "REDO", "READONLY"])
def test_the_policy_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch, policy: str):
    assert api.jit_policy() == "ON"
    monkeypatch.setenv("MLC_JIT_POLICY", policy)
    assert api.jit_policy() == policy


@pytest.mark.parametrize("policy", ["", "on", "MAYBE", " ON"])
def test_another_policy_is_an_error(monkeypatch: pytest.MonkeyPatch, policy: str):
    monkeypatch.setenv("MLC_JIT_POLICY", policy)
    with pytest.raises(RequestError, match="READONLY"):
        api.jit_policy()


@pytest.mark.parametrize(("text", "seconds"), [("", 10.0), ("3", 3.0), ("0", 0.1), ("-5", 0.1)])
def test_the_silence_that_is_borne(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float):
    monkeypatch.setenv("MLC_JITD_DAEMON_SILENCE_SECONDS", text)
    assert api.silence_seconds() == seconds


def test_a_silence_that_is_no_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLC_JITD_DAEMON_SILENCE_SECONDS", "long")
    with pytest.raises(RequestError, match="long"):
        api.silence_seconds()


# --- config ---------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="does not exist") as caught:
        api.read_config(tmp_path / "none")
    assert isinstance(caught.value, ConfigNotFoundError)


def test_a_folder_without_a_config(tmp_path: Path):
    with pytest.raises(ConfigNotFoundError, match=r"mlc-chat-config\.json can't be read: No such file"):
        api.read_config(tmp_path)


def test_a_file_is_no_model_folder(model: Path):
    with pytest.raises(ConfigNotFoundError, match="is a file"):
        api.read_config(model / "mlc-chat-config.json")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_config_that_can_not_be_read(model: Path):
    (model / "mlc-chat-config.json").chmod(0)
    with pytest.raises(ConfigNotFoundError, match="Permission denied"):
        api.read_config(model)


def test_weights_are_no_config(model: Path):
    (model / "mlc-chat-config.json").write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigInvalidError, match="bytes"):
        api.read_config(model)


# --- device ---------------------------------------------------------------------------------------------------------


class FakeDevice:
    """What of tvm_ffi's ``Device`` is used."""

    _DEVICE_TYPE_TO_NAME = {1: "cpu", 2: "cuda"}  # noqa: RUF012

    def __init__(self, kind: int, index: int) -> None:
        self._kind = kind
        self.index = index

    def dlpack_device_type(self) -> int:
        return self._kind


def test_a_device_as_text_or_object():
    assert api.device_text("cuda:1") == "cuda:1"
    assert api.device_text('{"kind": "llvm"}') == '{"kind": "llvm"}'
    assert api.device_text(FakeDevice(2, 3)) == "cuda:3"
    assert api.device_text(FakeDevice(1, 0)) == "cpu:0"


@pytest.mark.parametrize("device", [None, 0, b"cuda", ("cuda", 0), object(), FakeDevice])
def test_anything_else_is_named(device: Any):
    with pytest.raises(DeviceInvalidError, match="tvm Device"):
        api.device_text(device)


@pytest.mark.tvm
@pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="apache-tvm is not installed")
def test_a_real_device_of_tvm():
    code = (
        "import sys; from mlc_jit import api; assert 'tvm' not in sys.modules\n"
        "import tvm; print(*[api.device_text(tvm.device(*d)) for d in [('cuda', 1), ('cpu', 0), ('vulkan', 2),"
        " ('metal', 0), ('rocm', 1), ('opencl', 0)]])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cuda:1", "cpu:0", "vulkan:2", "metal:0", "rocm:1", "opencl:0"]


@pytest.mark.parametrize("stream", [None, object(), io.StringIO()])
def test_whatever_stands_for_standard_error_is_no_obstacle(monkeypatch, stream):
    if isinstance(stream, io.StringIO):
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert api.on_terminal() is False


def test_an_answer_that_cannot_be_seen_here_says_what_to_mount(tmp_path, monkeypatch):
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path))
    answer = m.Result(path="/elsewhere/model_lib/k-d.so", key="k")
    unseen = visible(answer, locate())
    assert isinstance(unseen, StoreError)
    assert "can't be seen" in str(unseen)
    assert "Mount /elsewhere," in unseen.remedy
    assert does_without(unseen)
    monkeypatch.setenv("MLC_JITD", "require")
    assert not does_without(unseen)
    (tmp_path / "model_lib").mkdir()
    (tmp_path / "model_lib" / "k-d.so").touch()
    seen = visible(answer, locate())
    assert isinstance(seen, m.Result)
    assert seen.path == str(tmp_path / "model_lib" / "k-d.so")


def test_a_socket_in_a_folder_that_is_not_private_is_not_trusted(tmp_path):
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(AccessRefusedError, match="not a private folder"):
        channel.reach(folder / "s")


def test_descriptors_beyond_what_select_knows_are_no_obstacle():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2048:
        pytest.skip(f"the hard limit of descriptors is {hard} here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    try:
        with Interrupt() as interrupt:
            high = fcntl.fcntl(interrupt.fileno(), fcntl.F_DUPFD, 1500)
            try:
                interrupt.set()
                with pytest.raises(KeyboardInterrupt):
                    readable(high, interrupt)
                assert interrupt.is_set()
            finally:
                os.close(high)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
