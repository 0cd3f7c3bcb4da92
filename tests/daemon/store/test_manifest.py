from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_jitd.store import About, CompileRecord, Manifest, ModelRecord, PartRecord, ToolchainRecord
from mlc_jitd.store.manifest import FORMAT, ManifestInvalidError, ManifestNewerError, decode, encode

KEY = "ab" * 32

FULL = About(
    suffix="tar",
    toolchain=ToolchainRecord(name="mlc_llm", fingerprint="f00", interpreter="/python", versions={"tvm": "0.27"}),
    parts={"model": PartRecord(sha256="0" * 64, value={"rope": 10000.0, "heads": 10000, "x": [None, True, "ü"]})},
    target='{"kind":"llvm"}',
    system_lib_prefix="llama_q4f16_1_",
    model=ModelRecord(path="/models/llama", type="llama", quantization="q4f16_1"),
    device="cpu",
    compile=CompileRecord(seconds=60.5, peak_memory=1 << 30, cores=2, started=1e9, log="/logs/1"),
    degraded=("flashinfer: no nvcc",),
)


def manifest(about: About = FULL) -> Manifest:
    return Manifest.describe(about, key=KEY, sha256="c" * 64, size=7, created=1.5, version="0.1.0")


def test_what_is_written_is_read() -> None:
    whole = manifest()
    assert decode(encode(whole), KEY) == whole
    assert whole.artifact == f"{KEY}-{'c' * 16}.tar"


def test_int_and_float_stay_apart() -> None:
    value = decode(encode(manifest()), KEY).parts["model"].value
    assert type(value["rope"]) is float
    assert type(value["heads"]) is int


def test_the_form_on_disk_is_flat_json_for_people() -> None:
    fields = json.loads(encode(manifest()))
    assert fields.keys() == {field.name for field in dataclasses.fields(Manifest)}
    assert fields["format"] == FORMAT == 1
    assert fields["model"]["type"] == "llama"


def test_only_the_essential_fields_are_required() -> None:
    fields = json.loads(encode(manifest()))
    required = {"format", "key", "artifact", "sha256", "size", "suffix", "toolchain"}
    assert decode(json.dumps({name: fields[name] for name in required}).encode(), KEY).size == 7
    for name in required:
        with pytest.raises(ManifestInvalidError):
            decode(json.dumps({other: fields[other] for other in required - {name}}).encode(), KEY)


def test_fields_of_a_newer_minor_version_are_ignored() -> None:
    fields = json.loads(encode(manifest()))
    assert decode(json.dumps({**fields, "signature": {"by": "x"}}).encode(), KEY) == manifest()


@pytest.mark.parametrize("shape", [{}, {"parts": 7}, {"artifact": None}])
def test_a_newer_format_is_told_from_damage(shape: dict[str, object]) -> None:
    with pytest.raises(ManifestNewerError, match="format 2"):
        decode(json.dumps({**json.loads(encode(manifest())), "format": 2, **shape}).encode(), KEY)


def test_a_path_with_undecodable_bytes_is_written_readably() -> None:
    odd = dataclasses.replace(FULL, model=ModelRecord(path="/models/\udcff"), compile=CompileRecord(log="/\udc80"))
    read = decode(encode(manifest(odd)), KEY)
    assert read.model.path == "/models/\ufffd"
    assert read.compile.log == "/\ufffd"


@given(st.binary(max_size=200))
def test_any_bytes_give_only_the_declared_errors(payload: bytes) -> None:
    with pytest.raises((ManifestInvalidError, ManifestNewerError)):
        decode(payload, KEY)


@given(st.integers(0, 5000), st.integers(0, 255))
def test_any_changed_byte_gives_a_manifest_of_this_key_or_a_declared_error(position: int, byte: int) -> None:
    payload = bytearray(encode(manifest()))
    payload[position % len(payload)] = byte
    try:
        read = decode(bytes(payload), KEY)
    except (ManifestInvalidError, ManifestNewerError):
        return
    assert read.artifact.startswith(f"{KEY}-")
    assert "/" not in read.artifact
