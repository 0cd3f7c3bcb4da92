"""The same with the real compiler: targets, upstream's names, and one config that really compiles."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jit.errors import ConfigInvalidError, DeviceInvalidError
from mlc_jit.messages import JitRequest
from mlc_jitd.identity.config import EXCLUDED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlc_jitd.identity import Identifier

pytestmark = [pytest.mark.mlc_llm, pytest.mark.timeout(120)]

UPSTREAM_NAMES = [
    ("cpu:0", {}, "", None, "3d567081c8d9dcc4754c14033bd0012e", None),
    ("cpu:0", {"max_batch_size": None}, "", None, "3d567081c8d9dcc4754c14033bd0012e", None),
    ("cpu", {}, "", None, "97f63f444c9521eb39eed1f3fe0df2bb", None),
    ("cpu:0", {"context_window_size": 1024}, "O3", None, "3fae209d306902d64f4bfa3152af801a", None),
    (
        "cpu:0",
        {"context_window_size": -1, "prefill_chunk_size": 64},
        "",
        None,
        "eebdf882029a06112e88e9cd134045b2",
        None,
    ),
    ("cpu:0", {"disaggregation": True, "max_batch_size": 0}, "", None, "1ffbd51d0aecc22469c2dccd507b574c", None),
    (
        "iphone",
        {},
        "",
        None,
        "4d239e837ab96b0eb7d2a56960bba9ca",
        "llama_q4f32_1_64470d2a17601a96f2368f59eb427734",
    ),
    ("iphone", {}, "", "my_pref", "4cd0d97c00d7b2e6a7882fec3e1d505a", "my_pref"),
]
"""Device, overrides, opt, prefix given -> md5, prefix; from runs of upstream's own ``jit()`` at 79d603f0."""


@pytest.fixture
def real(models: Path, real_environment: dict[str, str]) -> Callable[..., JitRequest]:
    def make(fields: dict[str, Any] | None = None, env: dict[str, str] | None = None, **more: Any) -> JitRequest:
        config = json.loads((models / "tiny-llama-q4f32_1" / "mlc-chat-config.json").read_bytes())
        given: dict[str, Any] = {
            "config": json.dumps({**config, **(fields or {})}).encode(),
            "device": "cpu",
            "python": os.environ["MLC_JITD_TEST_PYTHON"],
            "environment": {**real_environment, **(env or {})},
        }
        return JitRequest(**{**given, **more})

    return make


@pytest.mark.parametrize(("device", "overrides", "opt", "given", "md5", "prefix"), UPSTREAM_NAMES)
def test_upstreams_own_names(
    real_identifier: Identifier,
    real: Callable[..., JitRequest],
    *,
    device: str,
    overrides: dict[str, Any],
    opt: str,
    given: str | None,
    md5: str,
    prefix: str | None,
) -> None:
    request = real(device=device, overrides=overrides, opt=opt, system_lib_prefix=given)
    (name,) = real_identifier.upstream_names(request)
    assert (name.md5, name.prefix) == (md5, prefix)


def test_the_local_cpu_has_several_names_and_one_target(
    real_identifier: Identifier, real: Callable[..., JitRequest]
) -> None:
    identities = [real_identifier.identify(real(device=device)) for device in ("cpu", "cpu:0", "auto")]
    assert len({identity.key for identity in identities}) == 1
    target = json.loads(identities[0].job.device)
    assert target["kind"] == target["host"]["kind"] == "llvm"
    assert target["mcpu"]
    explicit = real_identifier.identify(real(device=identities[0].job.device))
    assert explicit.part("target").value["target"] == target


def test_llvm_without_an_mcpu_is_another_target(real_identifier: Identifier, real: Callable[..., JitRequest]) -> None:
    keys = {real_identifier.identify(real(device=device)).key for device in ("cpu", "llvm", '{"kind":"llvm"}')}
    assert len(keys) == 2


@pytest.mark.parametrize("device", ["iphone", "android"])
def test_mobile_goes_by_name_with_upstreams_prefix(
    real_identifier: Identifier, real: Callable[..., JitRequest], device: str
) -> None:
    identity = real_identifier.identify(real(device=device))
    assert identity.suffix == "tar"
    assert identity.job.device == device
    assert identity.result_prefix is not None
    assert identity.job.compiler_prefix == identity.result_prefix + "_"
    if device == "iphone":
        assert identity.result_prefix == UPSTREAM_NAMES[-2][5]
    given = real_identifier.identify(real(device=device, system_lib_prefix="my_pref"))
    assert given.result_prefix == "my_pref"
    assert given.key != identity.key


def test_cuda_architectures_are_keys_without_any_gpu(
    real_identifier: Identifier, real: Callable[..., JitRequest]
) -> None:
    devices = ['{"kind": "cuda", "arch": "sm_86"}', '{"kind": "cuda", "arch": "sm_90"}']
    one, other = (real_identifier.identify(real(device=device)) for device in devices)
    assert one.key != other.key
    assert "cuda_module" in one.part("target").value["facts"]
    assert "nvcc" in one.part("toolchain").value["tools"]
    assert "thrust" not in one.job.device  # the compiler adds it, once


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "cuda:generic", '{"kind": "nonsense"}'])
def test_what_the_compiler_can_not_mean(
    real_identifier: Identifier, real: Callable[..., JitRequest], device: str
) -> None:
    with pytest.raises(DeviceInvalidError) as caught:
        real_identifier.identify(real(device=device))
    assert "Traceback" not in str(caught.value)


def test_model_types_and_quantizations_are_read_from_its_sources(
    real_identifier: Identifier, real: Callable[..., JitRequest]
) -> None:
    facts = real_identifier.identify(real()).toolchain
    assert facts.model_types is not None
    assert facts.quantizations is not None
    assert {"llama", "qwen3", "gemma3"} <= set(facts.model_types)
    assert "q4f16_1" in facts.quantizations
    with pytest.raises(ConfigInvalidError, match="'lama'"):
        real_identifier.identify(real(fields={"model_type": "lama"}))


CONFIG_FIELDS = """
import dataclasses, importlib, json, sys
from mlc_llm.model import MODELS
found = {}
for name, model in MODELS.items():
    for field in dataclasses.fields(model.config):
        found.setdefault(field.name, []).append(name)
json.dump(found, sys.stdout)
"""
USED_BY_NO_COMPILE = {"bos_token_id", "eos_token_id", "pad_token_id"}


def test_every_field_of_every_config_class_is_accounted_for(real_environment: dict[str, str], tmp_path: Path) -> None:
    env = {**real_environment, "MLC_LLM_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [os.environ["MLC_JITD_TEST_PYTHON"], "-P", "-c", CONFIG_FIELDS],
        env=env, cwd="/", capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    fields = json.loads(done.stdout)
    assert len(fields) > 50
    assert fields.keys() & EXCLUDED.keys() <= USED_BY_NO_COMPILE


def test_the_job_compiles(real_identifier: Identifier, real: Callable[..., JitRequest], tmp_path: Path) -> None:
    from mlc_jitd.toolchains import toolchain

    identity = real_identifier.identify(real(device="android"))
    side = toolchain(identity.toolchain.name)
    output = tmp_path / "lib.tar"
    command = side.command(identity.job, scratch=tmp_path, output=output, cores=1)
    done = subprocess.run(
        command.argv, env=dict(command.env), cwd=command.cwd, capture_output=True, text=True, check=False, timeout=110
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, side.root_cause(log)
    assert output.stat().st_size > 10_000
    assert [stage.name for line in log.splitlines() if (stage := side.stage(line))][-1] == "done"
    assert not any(side.degraded(line) for line in log.splitlines())
    assert real_identifier.recheck_thoroughly(identity)
