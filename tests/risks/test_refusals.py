"""Risk: a request that can't be met hangs, is slow to say so, or says it so that nobody knows what to do.

Each error names the input, the reason and the remedy, comes without a traceback, with the documented exit code, and in
well under a second where neither a compile nor resolving a target is needed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import status, until
from mlc_jit import (
    ConfigInvalidError,
    ConfigNotFoundError,
    DeviceInvalidError,
    JitDisabledError,
    JitError,
    NotCachedError,
    OverrideInvalidError,
    RequestError,
    StoreFullError,
    StoreUnwritableError,
    ToolchainNotFoundError,
    jit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import CompletedProcess

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

QUICK_SECONDS = 1.0
CONFIG = "mlc-chat-config.json"


def refused(call: Callable[[], object], kind: type[JitError], *said: str) -> JitError:
    """The error of a call that must be refused quickly: the best of three tries, for a busy host."""
    taken = []
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(kind) as caught:
            call()
        taken.append(time.monotonic() - began)
    error = caught.value
    assert type(error) is kind
    for each in said:
        assert each in str(error), error
    assert error.remedy, error
    assert "Traceback" not in str(error)
    assert min(taken) < QUICK_SECONDS
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.facts()) == (kind, str(error), error.facts())
    return error


def in_a_terminal(done: CompletedProcess[str], code: int, *said: str) -> None:
    """What the command line made of it."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for each in said:
        assert each in done.stderr


Request = tuple[dict[str, Any], str, type[JitError], tuple[str, ...], int]

REQUESTS: dict[str, Request] = {
    "unknown override": (
        {"max_batch_sise": 8},
        "cpu",
        OverrideInvalidError,
        ("max_batch_sise", "max_batch_size"),
        2,
    ),
    "override that is no number": ({"max_batch_size": "many"}, "cpu", OverrideInvalidError, ("max_batch_size",), 2),
    "unknown opt": ({"opt": "O9"}, "cpu", OverrideInvalidError, ("O9",), 2),
    "empty device": ({}, "", DeviceInvalidError, ("empty",), 2),
    "device that is no text": ({}, "{broken", DeviceInvalidError, ("JSON target",), 2),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_a_bad_request(
    what: str, daemon: Daemon, double: Double, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    overrides, device, kind, said, code = REQUESTS[what]
    model = double.model()
    refused(lambda: jit(model, overrides, device), kind, *said)
    words = ["compile", model, "--device", device]
    opt = overrides.get("opt")
    text = ";".join(f"{name}={value}" for name, value in overrides.items() if name != "opt")
    words += (["--opt", opt] if opt else []) + (["--overrides", text] if text else [])
    in_a_terminal(mlc_jit(*words), code, *said)
    assert double.starts() == []


def test_a_device_that_the_compiler_does_not_know(
    daemon: Daemon, double: Double, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    with pytest.raises(DeviceInvalidError) as caught:  # not in under a second: a compiler is asked
        jit(double.model(), {}, "abacus:0")
    assert "abacus:0" in str(caught.value)
    assert caught.value.remedy
    in_a_terminal(mlc_jit("compile", double.model(), "--device", "abacus:0"), 2, "abacus:0")


CONFIGS: dict[str, tuple[bytes | None, type[JitError], str]] = {
    "no config": (None, ConfigNotFoundError, "No such file"),
    "broken JSON": (b'{"model_type": "llama",', ConfigInvalidError, "not JSON"),
    "not an object": (b"[1, 2]", ConfigInvalidError, "array"),
    "no text": (b"\xff\xfe\x00", ConfigInvalidError, "UTF-8"),
    "no model type": (b'{"quantization": "q0f16", "model_config": {}}', ConfigInvalidError, "model_type"),
    "unknown model type": (
        b'{"model_type": "lama", "quantization": "q0f16", "model_config": {}}',
        ConfigInvalidError,
        "'lama'",
    ),
    "unknown quantization": (
        b'{"model_type": "llama", "quantization": "q9f99", "model_config": {}}',
        ConfigInvalidError,
        "'q9f99'",
    ),
    "far too long": (b'{"a": "' + b"x" * (600 << 10) + b'"}', ConfigInvalidError, "bytes"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_bad_config(what: str, daemon: Daemon, double: Double, mlc_jit: Callable[..., CompletedProcess[str]]) -> None:
    payload, kind, said = CONFIGS[what]
    model = double.folder / "bad"
    model.mkdir()
    if payload is not None:
        (model / CONFIG).write_bytes(payload)
    error = refused(lambda: jit(model, {}, "cpu"), kind, said, str(model))
    assert isinstance(error, (RuntimeError if kind is ConfigInvalidError else FileNotFoundError))
    in_a_terminal(mlc_jit("compile", model, "--device", "cpu"), 2, said, str(model))
    assert double.starts() == []


def test_a_model_path_that_is_a_file(
    daemon: Daemon, double: Double, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    file = double.model() / CONFIG
    refused(lambda: jit(file, {}, "cpu"), ConfigNotFoundError, str(file), "is a file", "folder")
    in_a_terminal(mlc_jit("compile", file), 2, str(file), "is a file")


def test_a_model_path_that_is_not_there(
    daemon: Daemon, place: Place, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    missing = place.root / "nowhere"
    refused(lambda: jit(missing, {}, "cpu"), ConfigNotFoundError, str(missing), "does not exist")
    in_a_terminal(mlc_jit("compile", missing), 2, str(missing), "does not exist")


def test_off(
    daemon: Daemon,
    double: Double,
    monkeypatch: pytest.MonkeyPatch,
    mlc_jit: Callable[..., CompletedProcess[str]],
) -> None:
    monkeypatch.setenv("MLC_JIT_POLICY", "OFF")
    refused(lambda: jit(double.model(), {}, "cpu"), JitDisabledError, "MLC_JIT_POLICY=OFF")
    in_a_terminal(mlc_jit("compile", double.model()), 4, "MLC_JIT_POLICY")


def test_a_policy_that_is_none(
    double: Double, monkeypatch: pytest.MonkeyPatch, mlc_jit: Callable[..., CompletedProcess[str]]
) -> None:
    monkeypatch.setenv("MLC_JIT_POLICY", "MAYBE")
    refused(lambda: jit(double.model(), {}, "cpu"), RequestError, "MLC_JIT_POLICY='MAYBE'", "READONLY")
    in_a_terminal(mlc_jit("compile", double.model()), 2, "MAYBE")


def test_readonly(
    daemon: Daemon,
    double: Double,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    mlc_jit: Callable[..., CompletedProcess[str]],
) -> None:
    model = double.model()
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    error = refused(lambda: jit(model, {}, "cpu"), NotCachedError, "READONLY", "no library")
    assert error.reason == "absent"
    assert double.starts() == []
    in_a_terminal(mlc_jit("compile", model, "--device", "cpu"), 4, "READONLY", "mlc-jit compile MODEL")

    monkeypatch.setenv("MLC_JIT_POLICY", "ON")
    path = jit(model, {}, "cpu").model_lib_path
    monkeypatch.setenv("MLC_JIT_POLICY", "READONLY")
    assert jit(model, {}, "cpu").model_lib_path == path

    Path(path).chmod(0o644)
    with Path(path).open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(NotCachedError, match="damaged") as caught:
        jit(model, {}, "cpu")
    assert caught.value.reason == "damaged"
    assert len(double.starts()) == 1
    assert place.artifacts() == []
    assert status().counters["damaged"] == 1


def test_no_compiler_of_that_name(daemon: Daemon, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_JITD_PYTHON", "/nowhere/python")
    refused(lambda: jit(double.model(), {}, "cpu"), ToolchainNotFoundError, "/nowhere/python")
    monkeypatch.setenv("MLC_JITD_TOOLCHAIN", "gcc")
    refused(lambda: jit(double.model(), {}, "cpu"), RequestError, "MLC_JITD_TOOLCHAIN='gcc'")


def test_an_unwritable_home(
    double: Double,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    mlc_jit: Callable[..., CompletedProcess[str]],
) -> None:
    (place.root / "file").touch()
    monkeypatch.setenv("MLC_LLM_HOME", str(place.root / "file" / "cache"))
    said = (str(place.root / "file"), "Not a directory", "MLC_LLM_HOME")
    refused(lambda: jit(double.model(), {}, "cpu"), StoreUnwritableError, *said)
    in_a_terminal(mlc_jit("compile", double.model()), 1, *said)
    assert double.starts() == []


@pytest.mark.parametrize("home", ["/", ""])
def test_no_home(
    home: str,
    double: Double,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    mlc_jit: Callable[..., CompletedProcess[str]],
) -> None:
    monkeypatch.delenv("MLC_LLM_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", home)
    refused(lambda: jit(double.model(), {}, "cpu"), StoreUnwritableError, "no home folder", "MLC_LLM_HOME")
    in_a_terminal(mlc_jit("compile", double.model()), 1, "MLC_LLM_HOME")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without an entry in the password file")
def test_a_user_whom_nobody_knows(double: Double, place: Place, ended: None) -> None:
    model = double.model()
    for folder in (double.folder, model):
        folder.chmod(0o777)
    words = [sys.executable, "-P", "-m", "mlc_jit", "compile", str(model), "--device", "cpu"]
    env = {name: os.environ[name] for name in os.environ if name not in ("HOME", "MLC_LLM_HOME", "XDG_CACHE_HOME")}

    readable = False

    def run(**variables: str) -> CompletedProcess[str]:
        return subprocess.run(
            words, env={**env, **variables}, user=54321, group=54321, extra_groups=[], cwd="/",
            capture_output=True, text=True, timeout=40, check=False,
        )  # fmt: skip

    with contextlib.suppress(PermissionError, subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", "import mlc_jit"], user=54321, env=env, cwd="/", check=True)
        readable = True
    if not readable:
        pytest.skip("the interpreter or the checkout is closed to other users")
    in_a_terminal(run(), 1, "no home folder", "MLC_LLM_HOME")
    homes = place.folder("theirs")
    homes.chmod(0o777)
    done = run(MLC_LLM_HOME=str(homes / "c"), MLC_JITD_RUNTIME_DIR=str(homes / "r"))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()


@pytest.fixture
def mounted(place: Place) -> Iterator[Callable[..., None]]:
    """Mounts a small file system at the cache home."""
    if os.getuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("only root can mount")

    def mount(options: str) -> None:
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place.cache)]
        if "remount" not in options and subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("can't mount here")
        if "remount" in options:
            again = ["mount", "-o", options, str(place.cache)]
            # Not while somebody writes there: a copy under upstream's name, say.
            until(lambda: subprocess.run(again, capture_output=True, check=False).returncode == 0, what=options)

    yield mount
    place.end_daemons()
    subprocess.run(["umount", "-l", str(place.cache)], capture_output=True, check=False)


def test_a_full_disk(
    mounted: Callable[..., None],
    start_daemon: Callable[..., Daemon],
    double: Double,
    mlc_jit: Callable[..., CompletedProcess[str]],
    place: Place,
) -> None:
    mounted("size=2m")
    start_daemon()
    model = double.model()
    jit_error = refused(lambda: jit(model, {}, "cpu"), StoreFullError, str(place.cache), "MiB free", "Free space")
    assert jit_error.key
    assert double.starts() == []
    in_a_terminal(mlc_jit("compile", model, "--device", "cpu"), 1, "MiB free")


def test_a_home_that_became_read_only(
    mounted: Callable[..., None],
    start_daemon: Callable[..., Daemon],
    double: Double,
    client: Clients,
    mlc_jit: Callable[..., CompletedProcess[str]],
) -> None:
    mounted("size=600m")
    daemon = start_daemon()
    model, other = double.model(), double.model("other", vocab_size=7)
    path = jit(model, {}, "cpu").model_lib_path
    mounted("remount,ro")
    assert jit(model, {}, "cpu").model_lib_path == path
    refused(lambda: jit(other, {}, "cpu"), StoreUnwritableError, "read-only", "MLC_LLM_HOME")
    assert daemon.stop() == 0
    assert client.ask(model).path() == path  # by a fresh daemon
    assert client.ask(other).error()["error"] == "StoreUnwritableError"
    in_a_terminal(mlc_jit("compile", other, "--device", "cpu"), 1, "read-only", "MLC_LLM_HOME")
    assert len(double.starts()) == 1


def test_off_switches_all_of_it_off(double: Double, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """``MLC_JITD=off``: upstream's own ``jit()``, which this interpreter does not have."""
    monkeypatch.setenv("MLC_JITD", "off")
    refused(lambda: jit(double.model(), {}, "cpu"), ToolchainNotFoundError, "mlc_llm", "MLC_JITD=off")
    assert list(place.runtime.iterdir()) == []
