"""Kernels in a bucket: what one compile made is one object, so that a host that begins gets many in few requests.

::

    v1/kernels/<scope>/<signer>/<sha256>     a signed text (`signed`), and behind it the kernels' files, compressed

A scope is a build of TVM, a target and the host tools that kernels rest on: who compiles for it lists it once, and
gets the packs that it does not know. Where there are many, whoever adds one makes one of them all. A kernel's key says
what it was made from; that it does what the key says, the signature vouches for. What does not belong here: when
(`pool`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from mlc_jitd.fleet.libraries import Blocks, packed
from mlc_jitd.fleet.objects import AbsentError, Bucket, ExistsError, Meta, TooLongError
from mlc_jitd.fleet.signed import NOBODY, RefusedError, check, sign
from mlc_jitd.identity.canonical import digest
from mlc_jitd.store.layout import is_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlc_jitd.fleet.keys import PrivateKey, Trust
    from mlc_jitd.identity import Identity

KERNELS = "v1/kernels"
MOST_PACK_BYTES = 64 << 20
"""Of one pack, as it is stored and unpacked."""

MOST_PACKS = 4096
MANY = 16
"""So many packs of one signer are made one."""

_RESTS_ON = ("environment", "target", "toolchain")
"""Parts of a library's key that say for what kernels are, and which host tools there are."""


class _Kernel(msgspec.Struct):
    key: str
    size: int


class _Body(msgspec.Struct):
    """The payload of a pack's signed text."""

    kind: str
    scope: str
    sha256: str
    encoding: str
    kernels: list[_Kernel]


_DECODER = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack that was read: its kernels' files, by key."""

    name: str
    kernels: dict[str, bytes]


def scope_of(identity: Identity, build: str) -> str:
    """For whom kernels are of use, 32 hex digits.

    Args:
        identity: A library whose compile wants or makes them.
        build: The toolchain's build of TVM.
    """
    return digest([build, [part.sha256 for part in identity.parts if part.name in _RESTS_ON]])[:32]


def listed(bucket: Bucket, scope: str, trust: Trust) -> list[Meta]:
    """The packs of a scope by those who are trusted, the newest first.

    Raises:
        RemoteError: The bucket is in trouble.
    """
    signers = {each.name for each in trust.keys}
    found = [
        each
        for each in bucket.list(f"{KERNELS}/{scope}", most=MOST_PACKS)
        if trust.anyone or each.name.split("/")[-2] in signers
    ]
    return sorted(found, key=lambda each: -each.modified)


def get(bucket: Bucket, name: str, scope: str, trust: Trust) -> Pack:
    """A pack's kernels.

    Raises:
        RefusedError: It may not be believed.
        AbsentError: It is gone: there is a bigger one now.
        FaultError: The bucket is in trouble.
    """
    try:
        said = check(bucket.get(name, most=MOST_PACK_BYTES).data, trust)
    except TooLongError as error:
        raise RefusedError(str(error)) from error
    try:
        body = _DECODER.decode(said.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(f"its payload can't be read: {error}") from error
    if (body.kind, body.scope) != ("kernels", scope):
        raise RefusedError(f"it is no pack of {scope}")
    if hashlib.sha256(said.rest).hexdigest() != body.sha256:
        raise RefusedError("its kernels are not the ones that were signed for")
    if any(not is_key(each.key) or each.size <= 0 for each in body.kernels):
        raise RefusedError("it names a kernel that is none")
    if sum(each.size for each in body.kernels) > MOST_PACK_BYTES:
        raise RefusedError(f"its kernels take more than {MOST_PACK_BYTES} bytes")
    return Pack(name, _unpacked(said.rest, body))


def put(bucket: Bucket, scope: str, kernels: Mapping[str, bytes], key: PrivateKey | None) -> str:
    """Write a pack; its name.

    Raises:
        RemoteError: It is not there now, or nobody knows.
    """
    files = {each: kernels[each] for each in sorted(kernels)}
    rest, encoding = packed(b"".join(files.values()))
    body = _Body(
        "kernels",
        scope,
        hashlib.sha256(rest).hexdigest(),
        encoding,
        [_Kernel(each, len(data)) for each, data in files.items()],
    )
    text = sign(msgspec.json.encode(body), key, rest)
    signer = "unsigned" if key is None else key.public.name
    name = f"{KERNELS}/{scope}/{signer}/{hashlib.sha256(text).hexdigest()}"
    try:
        bucket.put(name, text, create=True)
    except ExistsError:
        return name  # its name is its content
    return name


def merge(bucket: Bucket, scope: str, key: PrivateKey | None, trust: Trust, refused: Callable[[str, str], None]) -> int:
    """Make one pack of a signer's many, if there are; how many went.

    Two who do it at once leave a pack too many, and none too few: packs go when what they hold is in another one.

    Raises:
        RemoteError: The bucket is in trouble.
    """
    signer = NOBODY if key is None else key.public.name
    mine = [
        each
        for each in listed(bucket, scope, trust)
        if each.name.split("/")[-2] == ("unsigned" if key is None else signer)
    ]
    if len(mine) < MANY:
        return 0
    kernels: dict[str, bytes] = {}
    gone: list[str] = []
    for each in mine:
        try:
            pack = get(bucket, each.name, scope, trust)
        except AbsentError:
            continue
        except RefusedError as error:
            refused(each.name, str(error))
            continue
        more = {name: data for name, data in pack.kernels.items() if name not in kernels}
        if sum(map(len, kernels.values())) + sum(map(len, more.values())) > MOST_PACK_BYTES // 2:
            break  # the newest are in; older ones stay as they are
        kernels |= more
        gone.append(each.name)
    if len(gone) < MANY // 2:
        return 0
    whole = put(bucket, scope, kernels, key)
    bucket.delete([name for name in gone if name != whole])
    return len(gone)


def _unpacked(rest: bytes, body: _Body) -> dict[str, bytes]:
    whole = bytearray()
    size = sum(each.size for each in body.kernels)
    for block in Blocks(rest) if body.encoding == "zstd" else [rest]:
        whole += block
        if len(whole) > size:
            break
    if len(whole) != size:
        raise RefusedError("its kernels have other lengths")
    found, at = {}, 0
    for each in body.kernels:
        found[each.key] = bytes(whole[at : at + each.size])
        at += each.size
    return found
