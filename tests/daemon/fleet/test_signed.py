"""What anybody can put into a bucket, and whether it passes for what somebody trusted signed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mlc_jitd.fleet.keys import PrivateKey, Trust
from mlc_jitd.fleet.signed import NOBODY, RefusedError, Signed, check, sign

ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")

OWN, STRANGER = (PrivateKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2))
TRUST = Trust((OWN.public,))


def text(signature: bytes, payload: bytes = b"{}") -> bytes:
    signer = OWN.public.name.encode()
    return b"mlc-jitd signed 1\nsigner %b\nsignature %b\nlength %d\n\n%b" % (signer, signature, len(payload), payload)


@given(payload=some.binary(), rest=some.binary())
def test_what_was_signed_is_read(payload, rest):
    assert check(sign(payload, OWN, rest), TRUST) == Signed(OWN.public.name, payload, rest)
    assert check(sign(payload, None, rest), Trust((), anyone=True)) == Signed(NOBODY, payload, rest)


@pytest.mark.parametrize(
    "signature",
    [b"-", b"A" * 88, b"A" * 87 + b"=", b"A" * 85 + b"===", b"=" * 88, b"A" * 43 + b"=" + b"A" * 44],
    ids=["none", "too long", "another padding", "one letter too many", "padding alone", "padding inside"],
)
def test_what_is_no_signature_is_refused(signature):
    with pytest.raises(RefusedError):
        check(text(signature), TRUST)
    with pytest.raises(RefusedError):  # who takes what nobody signed does not take what a known key did not sign
        check(text(signature), Trust(TRUST.keys, anyone=True))


@given(signature=some.from_regex(rb"[A-Za-z0-9+/=]{88}", fullmatch=True))
def test_no_signature_but_the_right_one_is_taken(signature):
    with pytest.raises(RefusedError):
        check(text(signature), TRUST)


@given(at=some.integers(min_value=0), bit=some.integers(0, 7), key=some.sampled_from([OWN, STRANGER]))
def test_one_bit_of_it_changed_is_refused(at, bit, key):
    data = bytearray(sign(b'{"kind": "library"}', key))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(RefusedError):
        check(bytes(data), TRUST)
