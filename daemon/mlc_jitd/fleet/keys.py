"""Ed25519 keys: who signs what goes into a bucket, and whose signatures count.

A private key is a PEM file (PKCS #8) that only its owner can read. A public key is a word, ``ed25519-`` and 43 letters,
so that it fits into a setting. What does not belong here: what is signed (`signed`).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mlc_jit.errors import RequestError

PREFIX = "ed25519-"
KEY_BYTES = 32
ANYONE = "anyone"
MOST_BYTES = 64 << 10
"""A longer file holds no keys."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Whose signatures can be checked; ``name`` is what objects in a bucket are filed under."""

    raw: bytes

    @property
    def name(self) -> str:
        """32 hex digits that no other key has."""
        return hashlib.sha256(self.raw).hexdigest()[:32]

    @property
    def text(self) -> str:
        """As settings and files have it."""
        return PREFIX + base64.urlsafe_b64encode(self.raw).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """The key in a word.

        Raises:
            ValueError: It is none.
        """
        if not text.startswith(PREFIX):
            raise ValueError(f"{text[:80]!r} is no public key: it must begin with {PREFIX}")
        try:
            raw = base64.b64decode(text.removeprefix(PREFIX) + "=", altchars=b"-_", validate=True)
        except ValueError:
            raw = b""
        if len(raw) != KEY_BYTES:
            raise ValueError(f"{text[:80]!r} is no public key: {PREFIX} and 43 letters make one")
        return cls(raw)

    def signed(self, signature: bytes, message: bytes) -> bool:
        """Whether the key's owner signed the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True, repr=False)
class PrivateKey:
    """Signs."""

    key: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        """What others check with."""
        encoding, form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        return PublicKey(self.key.public_key().public_bytes(encoding, form))

    def sign(self, message: bytes) -> bytes:
        """The signature of a message, 64 bytes."""
        return self.key.sign(message)


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures count.

    Attributes:
        keys: In the order in which they are looked for.
        anyone: What nobody signed counts too, and what strangers signed.
    """

    keys: tuple[PublicKey, ...] = ()
    anyone: bool = False

    def key(self, name: str) -> PublicKey | None:
        """The trusted key of that name."""
        return next((each for each in self.keys if each.name == name), None)


def make_key(path: Path) -> PublicKey:
    """Make a pair: the private key in a new file, the public one beside it with ``.pub`` behind the name.

    Raises:
        OSError: A file is there already, or can't be written.
    """
    private = PrivateKey(Ed25519PrivateKey.generate())
    pem = private.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    Path(f"{path}.pub").write_text(f"{private.public.text}\n")
    return private.public


def read_key(path: Path) -> PrivateKey:
    """The private key in a file.

    Raises:
        RequestError: There is none that can be used; it says why.
    """
    remedy = "`mlc-jit remote keygen FILE` makes one."
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            payload = file.read(MOST_BYTES)
    except OSError as error:
        raise RequestError(f"The signing key {path} can't be read: {error.strerror}.", remedy=remedy) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise RequestError(f"Others can read the signing key {path}.", remedy=f"chmod 600 {path}")
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = serialization.load_pem_private_key(payload, password=None)
        if isinstance(key, Ed25519PrivateKey):
            return PrivateKey(key)
    raise RequestError(f"{path} holds no Ed25519 private key in PEM without a password.", remedy=remedy)


def read_trust(text: str, own: PrivateKey | None = None) -> Trust:
    """Whose signatures count, by a setting.

    Args:
        text: Public keys and absolute paths of files of them, with ``:`` between; or ``anyone``.
        own: The key that signs here; it is trusted too, last.

    Raises:
        RequestError: Something in it is no key.
    """
    if text == ANYONE:
        return Trust((own.public,) if own else (), anyone=True)
    keys: list[PublicKey] = []
    try:
        for each in filter(None, text.split(":")):
            words = _words(Path(each)) if each.startswith("/") else [each]
            keys += [PublicKey.parse(word) for word in words]
    except OSError as error:
        raise RequestError(f"remote_trust: {error.filename} can't be read: {error.strerror}.") from error
    except ValueError as error:
        remedy = "Name the public key that `mlc-jit remote keygen` printed, or the file that it wrote."
        raise RequestError(f"remote_trust: {error}.", remedy=remedy) from error
    if own is not None:
        keys.append(own.public)
    return Trust(tuple(dict.fromkeys(keys)))


def _words(path: Path) -> list[str]:
    """The first word of each line that says anything."""
    with path.open(encoding="utf-8") as file:
        lines = file.read(MOST_BYTES).splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("#")]
