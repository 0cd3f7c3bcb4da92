"""What a request may not ask: one clear error each, before any subprocess where the request alone decides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jit.errors import (
    ConfigInvalidError,
    DeviceInvalidError,
    JitError,
    OverrideInvalidError,
    RequestError,
    ToolchainNotFoundError,
)
from mlc_jitd.identity.arguments import parse_opt, parse_overrides

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlc_jit.messages import JitRequest
    from mlc_jitd.identity import Identifier

NEEDED = {"model_type": "llama", "quantization": "q4f16_1"}

BAD_CONFIGS: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xef\xbb\xbf{}", "not JSON"),
    (b'{"a": \xff}', "not UTF-8"),
    (b"[]", "JSON array"),
    (b"null", "JSON null"),
    (b"3", "JSON number"),
    (b"{}", "`model_type`"),
    (b'{"model_type": "llama"}', "`quantization`"),
    (b'{"model_type": null, "quantization": "q0f16"}', "`model_type`"),
    (b'{"model_type": ["llama"], "quantization": "q0f16"}', "`model_type`"),
    (json.dumps({**NEEDED, "model_config": []}).encode(), "`model_config`"),
    (b"[" * 100_000, "nested too deeply|not JSON"),
    (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
]


@pytest.fixture
def deaf(identifier: Identifier, monkeypatch: pytest.MonkeyPatch) -> Identifier:
    """An identifier that may not start a process."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a subprocess was started")

    monkeypatch.setattr("subprocess.Popen", refuse)
    return identifier


@pytest.mark.parametrize(("raw", "said"), BAD_CONFIGS, ids=range(len(BAD_CONFIGS)))
def test_a_bad_config(deaf: Identifier, ask: Callable[..., JitRequest], raw: bytes, said: str) -> None:
    with pytest.raises(ConfigInvalidError, match=said) as caught:
        deaf.identify(ask(config=raw))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"max_batch_size": 8.0}, "not an integer"),
        ({"max_batch_size": True}, "not an integer"),
        ({"max_batch_size": "8;prefill_chunk_size=4"}, "not an integer"),
        ({"max_batch_size": ""}, "not an integer"),
        ({"disaggregation": 2}, "not a boolean"),
        ({"disaggregation": 0.5}, "not a boolean"),
        ({"disaggregation": "maybe"}, "not a boolean"),
    ],
)
def test_a_bad_override(deaf: Identifier, ask: Callable[..., JitRequest], overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(OverrideInvalidError, match=said) as caught:
        deaf.identify(ask(overrides=overrides))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("context_windows_size", "'context_window_size'"), ("zzz", "It knows"), ("max_batch", "'max_batch_size'")],
)
def test_an_unknown_override_is_the_toolchains_to_refuse(
    identifier: Identifier, ask: Callable[..., JitRequest], name: str, remedy: str
) -> None:
    with pytest.raises(OverrideInvalidError, match=f"'{name}'") as caught:
        identifier.identify(ask(overrides={name: 8}))
    assert remedy in caught.value.remedy


NEWER = """
import dataclasses
from typing import Optional


@dataclasses.dataclass
class ModelConfigOverride(object):
    context_window_size: Optional[int] = None
    draft_tokens: int | None = None
    rope_scale: Optional[float] = None
    kv_state: Optional[str] = None
    spread: Optional[bool] = None
"""


@pytest.fixture
def newer(double: Any, tmp_path: Path) -> Path:
    """A toolchain whose own class has other fields than those that we know."""
    site: Path = double.install(tmp_path / "newer")
    flags = site / "mlc_llm" / "interface" / "compiler_flags.py"
    flags.write_text(flags.read_text() + NEWER)
    return site


def test_the_toolchains_own_class_says_which_overrides_there_are(
    identifier: Identifier, ask: Callable[..., JitRequest], newer: Path
) -> None:
    given = {"spread": "yes", "draft_tokens": "4", "context_window_size": 64, "rope_scale": 2, "kv_state": "hybrid"}
    found = identifier.identify(ask(overrides=given, env={"PYTHONPATH": str(newer)}))
    text = "context_window_size=64;draft_tokens=4;rope_scale=2.0;kv_state=hybrid;spread=True"
    assert found.job.overrides == text
    for bad, said in (
        ({"max_batch_size": 8}, "no override 'max_batch_size'"),
        ({"draft_tokens": "many"}, "not an integer"),
        ({"rope_scale": "nan"}, "not a number"),
        ({"kv_state": "a;b=1"}, "command line"),
    ):
        with pytest.raises(OverrideInvalidError, match=said) as caught:
            identifier.identify(ask(overrides=bad, env={"PYTHONPATH": str(newer)}))
        assert caught.value.remedy
    with pytest.raises(OverrideInvalidError) as caught:
        identifier.identify(ask(overrides={"draft_token": 4}, env={"PYTHONPATH": str(newer)}))
    assert "'draft_tokens'" in caught.value.remedy


@pytest.mark.parametrize("opt", ["O4", "o2", " O2", "flashinfer", "flashinfer=2", "c=1", "nothing=1", ";", "=1"])
def test_a_bad_opt(deaf: Identifier, ask: Callable[..., JitRequest], opt: str) -> None:
    with pytest.raises(OverrideInvalidError, match="opt") as caught:
        deaf.identify(ask(opt=opt))
    assert caught.value.remedy


@pytest.mark.parametrize("prefix", ["1abc", "a-b", "a b", "ä", "a\n", "--x"])
def test_a_bad_prefix(deaf: Identifier, ask: Callable[..., JitRequest], prefix: str) -> None:
    with pytest.raises(OverrideInvalidError, match="system_lib_prefix"):
        deaf.identify(ask(system_lib_prefix=prefix))


@pytest.mark.parametrize("device", ["", "  ", "a\0b", "--device", "{", '{"arch": "sm_80"}', "{} x", "x" * 9000])
def test_a_device_that_is_none(deaf: Identifier, ask: Callable[..., JitRequest], device: str) -> None:
    with pytest.raises(DeviceInvalidError) as caught:
        deaf.identify(ask(device=device))
    assert caught.value.remedy


@pytest.mark.parametrize("suffix", ["", "../x", "so/", "s o"])
def test_a_bad_suffix(deaf: Identifier, ask: Callable[..., JitRequest], suffix: str) -> None:
    with pytest.raises(RequestError, match="MLC_DSO_SUFFIX"):
        deaf.identify(ask(env={"MLC_DSO_SUFFIX": suffix}))


@pytest.mark.parametrize("variable", [{"A=B": "1"}, {"": "1"}, {"A": "\0"}, {"A\0": ""}])
def test_a_variable_that_no_process_can_have(
    deaf: Identifier, ask: Callable[..., JitRequest], variable: dict[str, str]
) -> None:
    with pytest.raises(RequestError, match="environment variable"):
        deaf.identify(ask(environment=variable))


@pytest.mark.parametrize("python", ["", "python3", "/nowhere/python", "/", "/bin/\0sh"])
def test_an_interpreter_that_is_none(deaf: Identifier, ask: Callable[..., JitRequest], python: str) -> None:
    with pytest.raises(ToolchainNotFoundError) as caught:
        deaf.identify(ask(python=python))
    assert caught.value.remedy


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho hello\n", "#!/bin/sh\necho '{}'\n", "?"])
def test_a_program_that_is_no_interpreter(
    identifier: Identifier, ask: Callable[..., JitRequest], tmp_path: Path, program: str
) -> None:
    python = tmp_path / "python"
    python.write_text(program)
    python.chmod(0o755)
    with pytest.raises(ToolchainNotFoundError, match=str(python)) as caught:
        identifier.identify(ask(python=str(python)))
    assert "Traceback" not in str(caught.value)


def test_an_unknown_model_type_names_the_nearest(identifier: Identifier, ask: Callable[..., JitRequest]) -> None:
    with pytest.raises(ConfigInvalidError, match="'lama'") as caught:
        identifier.identify(ask(fields={"model_type": "lama"}))
    assert "'llama'" in caught.value.remedy


def test_an_unknown_quantization_names_the_nearest(identifier: Identifier, ask: Callable[..., JitRequest]) -> None:
    with pytest.raises(ConfigInvalidError, match="'q4f16_9'") as caught:
        identifier.identify(ask(fields={"quantization": "q4f16_9"}))
    assert "Did you mean" in caught.value.remedy


def test_an_unknown_device_is_the_toolchains_answer(identifier: Identifier, ask: Callable[..., JitRequest]) -> None:
    with pytest.raises(DeviceInvalidError, match="androit") as caught:
        identifier.identify(ask(device="androit"))
    assert "'android'" in caught.value.remedy


@pytest.mark.parametrize(
    ("how", "said"),
    [("die", "SIGSEGV"), ("exit", "the double does not want to"), ("garbage", "something else")],
)
def test_a_resolver_that_fails(identifier: Identifier, ask: Callable[..., JitRequest], how: str, said: str) -> None:
    with pytest.raises(DeviceInvalidError, match=said) as caught:
        identifier.identify(ask(env={"MLC_DOUBLE_RESOLVE": how}))
    assert "Traceback" not in str(caught.value)
    assert identifier.identify(ask()).key  # a failure is not remembered


def test_a_resolver_that_hangs_is_no_fault_of_the_request(
    tmp_path: Path, identifier: Identifier, ask: Callable[..., JitRequest]
) -> None:
    short = type(identifier)(tmp_path / "memory", resolve_seconds=1.0)
    with pytest.raises(JitError, match="within 1 s") as caught:
        short.identify(ask(env={"MLC_DOUBLE_RESOLVE": "hang"}))
    assert not isinstance(caught.value, RequestError)
    assert caught.value.reason == "resolve-timed-out"
    assert "MLC_JITD_RESOLVE_SECONDS" in caught.value.remedy
    assert short.identify(ask()).key


def test_a_config_that_its_class_refuses_on_mobile(identifier: Identifier, ask: Callable[..., JitRequest]) -> None:
    with pytest.raises(ConfigInvalidError, match="hidden_size"):
        identifier.identify(ask(fields={"model_config": {}}, device="android"))


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("", "O2"),
        ("O0", "O0"),
        ("flashinfer=1", "flashinfer=1"),
        ("cudagraph=1;flashinfer=0", "flashinfer=0;cudagraph=1"),
        ("flash=1;flashinfer=0;", "flashinfer=0"),
        ("ipc=AUTO", "ipc_allreduce_strategy=AUTO"),
    ],
)
def test_opt_is_normalised(given: str, normal: str) -> None:
    assert parse_opt(given) == normal


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, ""),
        ({"max_batch_size": 8, "context_window_size": 4}, "context_window_size=4;max_batch_size=8"),
        ({"max_batch_size": "8"}, "max_batch_size=8"),
        ({"context_window_size": -1, "prefill_chunk_size": 64}, "prefill_chunk_size=64"),
        ({"disaggregation": 1, "max_batch_size": 0}, "max_batch_size=0;disaggregation=True"),
        ({"disaggregation": "no"}, "disaggregation=False"),
        ({"tensor_parallel_shards": None}, ""),
    ],
)
def test_overrides_are_normalised(given: dict[str, Any], text: str) -> None:
    assert parse_overrides(given).text == text


def test_errors_are_jit_errors() -> None:
    with pytest.raises(JitError):
        parse_opt("nonsense")
