"""A signed text: who says it, the signature, what is said, and bytes that it speaks of behind it.

::

    mlc-jitd signed 1
    signer 3f… (32 hex digits; `-` for nobody)
    signature … (base64; `-`)
    length 4711 (of the payload)

    {"kind": …}                        the payload: its very bytes are signed, with the first line before them
    …                                  what comes behind is vouched for by a digest in the payload

No other form of the same bytes is ever made, so there is nothing to canonicalise. What does not belong here: what is
said.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlc_jitd.fleet.keys import PrivateKey, Trust

NOBODY = "-"
MAGIC = b"mlc-jitd signed 1\n"
_HEAD = re.compile(
    rb"mlc-jitd signed 1\nsigner ([0-9a-f]{32}|-)\nsignature ([A-Za-z0-9+/=]{88}|-)\nlength ([0-9]{1,9})\n\n", re.ASCII
)


class RefusedError(Exception):
    """Something in the bucket is not what it should be, and was not used; the text says why, without a stop."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What somebody trusted said.

    Attributes:
        signer: The name of the key; ``-`` for nobody.
        payload: What is said.
        rest: The bytes behind it; not yet looked at.
    """

    signer: str
    payload: bytes
    rest: bytes


def sign(payload: bytes, key: PrivateKey | None, rest: bytes = b"") -> bytes:
    """The signed text; without a key, one that only who trusts anyone takes."""
    signer, signature = NOBODY, NOBODY
    if key is not None:
        signer, signature = key.public.name, base64.b64encode(key.sign(MAGIC + payload)).decode()
    head = f"signer {signer}\nsignature {signature}\nlength {len(payload)}\n\n"
    return MAGIC + head.encode() + payload + rest


def check(data: bytes, trust: Trust) -> Signed:
    """What is said, if somebody said it whose word counts.

    Args:
        data: The object's bytes, whatever they are.
        trust: Whose word counts.

    Raises:
        RefusedError: Nobody that counts did.
    """
    head = _HEAD.match(data)
    if head is None:
        raise RefusedError("it is no signed text")
    signer, signature, length = head[1].decode(), head[2], int(head[3])
    payload, rest = data[head.end() :][:length], data[head.end() + length :]
    if len(payload) != length:
        raise RefusedError(f"it is cut off: {len(payload)} of {length} bytes")
    key = trust.key(signer)
    if key is None:
        if not trust.anyone:
            who = "nobody" if signer == NOBODY else f"the key {signer}, which is not trusted here"
            raise RefusedError(f"it is signed by {who}")
    elif not key.signed(_bytes(signature), MAGIC + payload):
        raise RefusedError(f"its signature is not one of the key {signer}")
    return Signed(signer, payload, rest)


def _bytes(signature: bytes) -> bytes:
    """What is behind base64; nothing, which is nobody's signature, where it is none."""
    try:
        return base64.b64decode(signature, validate=True)
    except ValueError:
        return b""
