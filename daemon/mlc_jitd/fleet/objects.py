"""The one door to an object store: a handful of calls over obstore, bounded in time and bytes, with declared errors.

`Bucket` is all that the rest of the fleet knows of object stores, so that a simulated one can stand in its place. What
does not belong here: what the objects mean, retries, and whether it is worth asking (`guard`).
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CONNECT_SECONDS = 3.0
STALL_SECONDS = 5.0
"""How long a server may send nothing at all; a body that flows may take as long as `Limits.seconds`."""

_NOISE = re.compile(r"^Generic \w+ error: |Error performing list request: |Object at location \S+ |: <.*$")
"""What says once more which object it was, or that a library raised it."""

_TOOK = re.compile(r"Error performing [A-Z]+ \S+ in (\S+) - ")

CHUNK_BYTES = 1 << 20
LIST_CHUNK = 1000

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file")
"""What a bucket's address may begin with; `memory` is for tests."""


class RemoteError(Exception):
    """The object store did not do what was asked.

    ::

        RemoteError
        ├── AbsentError      there is no such object
        ├── ExistsError      create-only, and an object is there (or an earlier try of the same put is)
        ├── ChangedError     the object is not the one that was to be replaced
        ├── UnsupportedError this engine can't do that
        ├── TooLongError     more bytes, or more objects, than the caller allows
        └── FaultError       the tier is at fault: it is worth asking again later
            └── DeniedError  … but only when somebody has seen to its rights
    """


class AbsentError(RemoteError):
    """There is no such object."""


class ExistsError(RemoteError):
    """A create-only put met an object. It may be the caller's own: an earlier try whose reply was lost."""


class ChangedError(RemoteError):
    """A conditional put met another version than the one that it names."""


class UnsupportedError(RemoteError):
    """The engine has no such operation."""


class TooLongError(RemoteError):
    """More than the caller allows; nothing was returned."""


class FaultError(RemoteError):
    """Time-out, broken connection, 5xx, a torn body. Whether a put was done is unknown: read it back."""


class DeniedError(FaultError):
    """The credentials are missing, wrong, or not enough."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What a store says of an object; the tag changes with every write, and is empty where the engine has none."""

    name: str
    size: int
    modified: float
    """Unix time, by the server's clock."""
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Body:
    """An object's bytes, and the tag of the version that they are."""

    data: bytes
    tag: str = ""


class Bucket(Protocol):
    """Objects under one prefix, each written whole. From any thread. Every call raises only `RemoteError`."""

    def get(self, name: str, *, most: int, told: Callable[[int], None] | None = None) -> Body:
        """The object's bytes.

        Args:
            name: Below the prefix, parts with ``/`` between them.
            most: Bytes; a longer object raises `TooLongError`.
            told: How many bytes have come, each time that some have.
        """

    def head(self, name: str) -> Meta:
        """What is said of an object."""

    def put(self, name: str, data: bytes, *, create: bool = False, tag: str = "") -> str:
        """Write an object whole; readers see the old one or the new one.

        Args:
            name: As for `get`.
            data: Its bytes.
            create: Only if there is none, else `ExistsError`. Not every engine keeps to it.
            tag: Only if the object has this tag, else `ChangedError`; some engines raise `UnsupportedError`.

        Returns:
            The new tag; may be empty.
        """

    def list(self, prefix: str, *, most: int, after: str = "") -> list[Meta]:
        """The objects whose names begin with the parts of a prefix, in the order of the names.

        Args:
            prefix: Whole parts, without a slash at its end.
            most: Objects; when there are more, `TooLongError`.
            after: Only names behind this one.
        """

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one request may take: in all, to connect, and with no byte coming. Seconds."""

    seconds: float = 60.0
    connect: float = CONNECT_SECONDS
    stall: float = STALL_SECONDS


class Objects:
    """A `Bucket` of a real engine.

    Args:
        store: Any store of obstore.
    """

    def __init__(self, store: Any) -> None:
        import obstore  # noqa: PLC0415 - the extra may be missing

        self._obstore = obstore
        self._store = store

    def get(self, name: str, *, most: int, told: Callable[[int], None] | None = None) -> Body:  # noqa: D102 - see Bucket
        with _declared(f"get {name}"):
            found = self._obstore.get(self._store, name)
            if found.meta["size"] > most:
                raise TooLongError(f"{name} has {found.meta['size']} bytes, and {most} are allowed")
            data = bytearray()
            for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
                data += chunk
                if len(data) > most:
                    raise TooLongError(f"{name} has more than the {most} bytes that are allowed")
                if told is not None:
                    told(len(data))
            if len(data) != found.meta["size"]:
                raise FaultError(f"get {name}: {len(data)} bytes came of {found.meta['size']}")
            return Body(bytes(data), found.meta["e_tag"] or "")

    def head(self, name: str) -> Meta:  # noqa: D102
        with _declared(f"head {name}"):
            return _meta(self._obstore.head(self._store, name))

    def put(self, name: str, data: bytes, *, create: bool = False, tag: str = "") -> str:  # noqa: D102
        mode: Any = "create" if create else {"e_tag": tag} if tag else "overwrite"
        with _declared(f"put {name}", create=create, tag=tag):
            # One whole request: a multipart upload can't be create-only, and leaves parts behind when it is cut off.
            done = self._obstore.put(self._store, name, data, mode=mode, use_multipart=False)
            return done["e_tag"] or ""

    def list(self, prefix: str, *, most: int, after: str = "") -> list[Meta]:  # noqa: D102
        found: list[Meta] = []
        with _declared(f"list {prefix}"):
            for chunk in self._obstore.list(self._store, prefix or None, offset=after or None, chunk_size=LIST_CHUNK):
                found += [_meta(each) for each in chunk]
                if len(found) > most:
                    raise TooLongError(f"there are more than {most} objects under {prefix!r}")
        return sorted(found, key=lambda each: each.name)

    def delete(self, names: Sequence[str]) -> None:  # noqa: D102
        for name in names:
            with contextlib.suppress(AbsentError), _declared(f"delete {name}"):
                self._obstore.delete(self._store, name)


def open_bucket(url: str, limits: Limits | None = None) -> Objects:
    """The bucket at an address. Nothing is asked of it yet.

    Credentials, regions and endpoints come from where these engines' own tools look: the variables ``AWS_*``,
    ``GOOGLE_*`` and ``AZURE_*``, and the host's role.

    Args:
        url: ``s3://bucket/prefix``, ``gs://…``, ``az://container/prefix``, ``file:///folder``; ``memory:///`` in tests.
        limits: How long a request may take.

    Raises:
        RemoteError: The address means nothing, or the settings around it are wrong.
        ImportError: The extra `fleet` is not installed.
    """
    from obstore import store as stores  # noqa: PLC0415 - the extra may be missing

    scheme = url.partition("://")[0]
    with _declared(f"open {url}"):
        if scheme == "memory":
            return Objects(stores.MemoryStore())
        if scheme == "file":
            return Objects(stores.from_url(url, mkdir=True))
        if scheme not in SCHEMES:
            raise RemoteError(f"{url!r} is no bucket: it must begin with s3://, gs://, az:// or file://")
        return Objects(stores.from_url(url, **_patience(limits or Limits())))


def _patience(limits: Limits) -> dict[str, Any]:
    """Requests that fail fast: obstore's own defaults wait for minutes. Who asks again, and when, is `guard`'s."""
    client: Any = {
        "allow_http": True,  # where somebody names an endpoint like that; the engines' own are https
        "timeout": timedelta(seconds=limits.seconds),
        "connect_timeout": timedelta(seconds=limits.connect),
        "read_timeout": timedelta(seconds=limits.stall),
    }
    retry: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=limits.seconds)}
    return {"client_options": client, "retry_config": retry}


def _meta(found: Any) -> Meta:
    return Meta(found["path"], found["size"], found["last_modified"].timestamp(), found["e_tag"] or "")


@contextlib.contextmanager
def _declared(doing: str, *, create: bool = False, tag: str = "") -> Iterator[None]:
    """Whatever the library raises, as an error of ours; a conflict where no condition was set is a fault."""
    from obstore import exceptions as e  # noqa: PLC0415 - the extra may be missing

    try:
        yield
    except RemoteError:
        raise
    except (FileNotFoundError, e.NotFoundError) as error:
        raise AbsentError(_words(doing, error)) from error
    except (FileExistsError, e.AlreadyExistsError) as error:
        kind = ExistsError if create else ChangedError if tag else FaultError
        raise kind(_words(doing, error)) from error
    except e.PreconditionError as error:
        raise (ChangedError if tag else FaultError)(_words(doing, error)) from error
    except (PermissionError, e.PermissionDeniedError, e.UnauthenticatedError) as error:
        raise DeniedError(_words(doing, error)) from error
    except (NotImplementedError, e.NotSupportedError) as error:
        raise UnsupportedError(_words(doing, error)) from error
    except (e.InvalidPathError, e.UnknownConfigurationKeyError, ValueError) as error:
        raise RemoteError(_words(doing, error)) from error
    except (e.BaseError, OSError) as error:
        raise FaultError(_words(doing, error)) from error


def _words(doing: str, error: BaseException) -> str:
    """The first line of what a library says; what follows is for its own developers."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    said = _TOOK.sub(r"after \1: ", _NOISE.sub("", said))
    return f"{doing}: {said[:300]}"
