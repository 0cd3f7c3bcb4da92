"""What a text in the bucket says of a library, where its signer is trusted and yet wrong."""

from __future__ import annotations

import hashlib

import pytest

from mlc_jitd.fleet import libraries
from mlc_jitd.fleet.keys import PrivateKey, Trust
from mlc_jitd.fleet.objects import open_bucket
from mlc_jitd.fleet.signed import RefusedError, check, sign
from mlc_jitd.identity.canonical import PART_NAMES, key_of, part
from mlc_jitd.store import About, ModelRecord, PartRecord, ToolchainRecord
from mlc_jitd.store.manifest import Manifest

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")

OWN = PrivateKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))
TRUST = Trust((OWN.public,))
PARTS = tuple(part(name, f"the {name}") for name in PART_NAMES)
KEY = key_of(PARTS)
LIBRARY = b"a library"


@pytest.fixture
def payload(tmp_path) -> bytes:
    """What one host signed for a library, as it lies in the bucket."""
    about = About(
        suffix="so",
        toolchain=ToolchainRecord(name="mlc_llm", fingerprint="f", versions={}),
        parts={each.name: PartRecord(sha256=each.sha256, value=each.value) for each in PARTS},
        model=ModelRecord(path="/m", type="llama", quantization="q0f32"),
    )
    sha256 = hashlib.sha256(LIBRARY).hexdigest()
    manifest = Manifest.describe(about, key=KEY, sha256=sha256, size=len(LIBRARY), created=1.0, version="1")
    (tmp_path / "lib").write_bytes(LIBRARY)
    bucket = open_bucket("memory:///")
    assert libraries.upload(bucket, manifest, tmp_path / "lib", OWN) == "written"
    return check(bucket.get(libraries.name_of(KEY, OWN.public.name), most=1 << 20).data, TRUST).payload


def read(payload: bytes) -> libraries.Offer:
    return libraries.read("name", sign(payload, OWN), KEY, TRUST)


def test_what_was_written_is_read(payload):
    offer = read(payload)
    assert (offer.manifest.key, offer.manifest.size, offer.signer) == (KEY, len(LIBRARY), OWN.public.name)
    assert offer.manifest.model.path == ""


def test_parts_of_any_depth_are_refused(payload):
    """There are depths that can be read and no longer be written; which, Python and its version decide."""
    value = f'"{PARTS[-1].value}"'.encode()
    assert payload.count(value) == 1
    for depth in (10, *range(900, 1010), 100_000):
        with pytest.raises(RefusedError):
            read(payload.replace(value, b"[" * depth + b"]" * depth))


@pytest.mark.parametrize(
    ("words", "others", "why"),
    [
        (b'"kind":"library"', b'"kind":"kernels"', "'kernels', not of a library"),
        (b'"encoding":""', b'"encoding":"xz"', "encoded as 'xz'"),
        (b'"stored":9', b'"stored":0', "has 9 bytes"),
        (b'"stored":9', b'"stored":1e99', "payload can't be read"),
        (b'"blob":"', b'"blob":"../', "manifest is no good"),
        (b'"the format"', b'"another"', "part 'format' of its manifest is not what its hash says"),
        (b'"key":"', b'"key":"0', "library of another key"),
    ],
)
def test_what_contradicts_itself_is_refused(payload, words, others, why):
    assert words in payload
    with pytest.raises(RefusedError) as refusal:
        read(payload.replace(words, others, 1))
    assert why in str(refusal.value)


def test_a_text_of_another_key_is_refused(payload):
    with pytest.raises(RefusedError, match="another key"):
        libraries.read("name", sign(payload, OWN), "0" * 64, TRUST)
