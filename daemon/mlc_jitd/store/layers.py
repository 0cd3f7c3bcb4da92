"""Read-only caches below the home: an image's baked-in one, a share. Searched when the home has no whole entry.

A layer has the layout of a home. It is verified like the home and trusted by the same rules, never written and never
collected; damage in it is a counted miss. It may be missing, appear later, and vanish while it is asked: whoever asks
waits a bounded time, and nobody asks again while one question hangs. Not here: the home itself (``Store``).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mlc_jit.errors import JitError, StoreError
from mlc_jitd.store.access import distrust
from mlc_jitd.store.entry import Found, Missing, Totals
from mlc_jitd.store.filesystem import file_system, is_network
from mlc_jitd.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mlc_jitd.store.entry import Entry
    from mlc_jitd.store.manifest import Manifest

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""How long a layer may take to show its folder. A share whose server is gone never does."""

FIND_SECONDS = 60.0
"""How long a layer that did show it may take to be read: a library hashed over a slow network."""

State = Literal["ok", "missing", "refused", "away"]

T = TypeVar("T")


class _AwayError(Exception):
    """The layer does not answer."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerState:
    """How a layer is.

    Attributes:
        path: Its folder, as configured.
        state: ``ok``; ``missing``; ``refused``: others could write it; ``away``: it does not answer.
        detail: Why it is not ``ok``, for people.
        remedy: What to do, or an empty string.
        file_system: Its type, where that is known.
    """

    path: str
    state: State
    detail: str = ""
    remedy: str = ""
    file_system: str = ""


class Layer:
    """One read-only cache. Every method may be called from any thread, and none waits longer than its bounds."""

    def __init__(self, path: Path, *, look_seconds: float = LOOK_SECONDS, find_seconds: float = FIND_SECONDS) -> None:
        self.path = path
        self._store = Store(path)
        self._look_seconds, self._find_seconds = look_seconds, find_seconds
        self._hanging: threading.Thread | None = None
        self._state = LayerState(path=str(path), state="missing")
        self._told: State | None = None

    def find(self, key: str) -> Found | Missing:
        """As ``Store.find``; an entry on a network file system is never ``unchanged``, so each hit asks for it again.

        A layer that can't be asked has no entry; ``unread`` says why.
        """
        if self.look().state != "ok":
            return self._unread()
        try:
            found = self._bounded(lambda: self._store.find(key), self._find_seconds)
        except (_AwayError, JitError) as error:
            self._tell(dataclasses.replace(self._state, state="away", detail=str(error) or "it does not answer"))
            return self._unread()
        if isinstance(found, Found) and self._slow:
            return Found(dataclasses.replace(found.entry, settled=False))
        return found

    def look(self) -> LayerState:
        """How it is now."""
        try:
            self._tell(self._bounded(self._looked, self._look_seconds))
        except _AwayError:
            detail = f"{self.path} does not answer within {self._look_seconds:g} s"
            self._tell(LayerState(path=str(self.path), state="away", detail=detail, remedy="See to its mount."))
        except OSError as error:
            detail = f"{self.path} can't be looked at: {error.strerror or error}"
            self._tell(LayerState(path=str(self.path), state="refused", detail=detail))
        return self._state

    def manifests(self) -> list[Manifest]:
        """Every readable manifest; none if it can't be asked."""
        return self._read(lambda: list(self._store.manifests()), [])

    def manifest(self, key: str) -> Manifest | None:
        """The key's manifest, if a good one is there and it can be asked."""
        return self._read(lambda: self._store.manifest(key), None)

    def keys(self) -> list[str]:
        """The keys that have a manifest; none if it can't be asked."""
        return self._read(self._store.keys, [])

    def totals(self) -> Totals:
        """Entries and bytes; none if it can't be asked."""
        return self._read(self._store.totals, Totals(0, 0))

    def counters(self) -> dict[str, int]:
        """See ``Store.counters``."""
        return self._store.counters()

    @property
    def store(self) -> Store:
        """The layer as a store that is only read; its calls wait as long as the file system does."""
        return self._store

    @property
    def _slow(self) -> bool:
        return is_network(self._state.file_system)

    def _looked(self) -> LayerState:
        library = self._store.layout.library
        try:
            status = library.stat()
        except (FileNotFoundError, NotADirectoryError):
            return LayerState(path=str(self.path), state="missing", detail=f"there is no folder {library}")
        kind = self._state.file_system if self._state.state == "ok" else file_system(library)
        for path, about in ((library, status), (self.path, self.path.stat())):
            doubt = distrust(about, path)
            if doubt and not (path == self.path and about.st_mode & stat.S_ISVTX):
                return LayerState(
                    path=str(self.path),
                    state="refused",
                    detail=f"{doubt[0]}: libraries in it could be swapped by others",
                    remedy=doubt[1],
                    file_system=kind,
                )
        return LayerState(path=str(self.path), state="ok", file_system=kind)

    def _unread(self) -> Missing:
        detail, remedy = self._state.detail.removesuffix("."), self._state.remedy.removesuffix(".")
        return Missing("absent", "", unread=f"the layer {self.path} is not read: {detail}{remedy and f' ({remedy})'}")

    def _read(self, call: Callable[[], T], otherwise: T) -> T:
        if self.look().state != "ok":
            return otherwise
        try:
            return self._bounded(call, self._find_seconds)
        except (_AwayError, StoreError):
            return otherwise

    def _bounded(self, call: Callable[[], T], seconds: float) -> T:
        """What the call returns, if it does in time; while an earlier one hangs, nothing is asked."""
        if self._hanging is not None:
            if self._hanging.is_alive():
                raise _AwayError
            self._hanging = None
        answer: list[Any] = []

        def run() -> None:
            try:
                answer.append((call(), None))
            except Exception as error:  # noqa: BLE001 - it is the caller's
                answer.append((None, error))

        thread = threading.Thread(target=run, name=f"layer {self.path}", daemon=True)
        thread.start()
        thread.join(seconds)
        if not answer:
            self._hanging = thread
            raise _AwayError
        value, error = answer[0]
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def _tell(self, state: LayerState) -> None:
        self._state = state
        if state.state != self._told:
            self._told = state.state
            if state.state == "ok":
                logger.info("the layer %s is read (%s)", self.path, state.file_system or "its file system is unknown")
            else:
                logger.warning("the layer %s is not read: %s. %s", self.path, state.detail, state.remedy)


class LayeredStore(Store):
    """A home and the layers below it, with the contract of ``Store``: what is added goes to the home.

    Args:
        home: As for ``Store``.
        layers: The read-only caches, searched in this order.
        options: As for ``Store``.
    """

    def __init__(self, home: Path, layers: Iterable[Path | Layer] = (), **options: Any) -> None:
        super().__init__(home, **options)
        self._layers = tuple(each if isinstance(each, Layer) else Layer(each) for each in layers)
        self._own = f"{self.layout.library}{os.sep}"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The read-only caches, in the order in which they are searched."""
        return self._layers

    def find(self, key: str) -> Found | Missing:
        """The home's library, else the first whole one of a layer; else why there is none.

        Raises:
            ValueError, StoreError: As ``Store.find`` for the home. A layer's troubles are no errors.
        """
        answer = super().find(key)
        if isinstance(answer, Found):
            return answer
        unread = []
        for layer in self.layers:
            found = layer.find(key)
            if isinstance(found, Found):
                self._count("layer_hits")
                return found
            if found.unread:
                unread.append(found.unread)
            if found.reason != "absent":
                self._count(f"layer_{found.reason}")
                if answer.reason == "absent":
                    answer = found
        return dataclasses.replace(answer, unread="; ".join(unread))

    def every_key(self) -> list[str]:
        """The keys of the home and of all layers that can be read, sorted."""
        return sorted({*self.keys(), *(key for layer in self.layers for key in layer.keys())})  # noqa: SIM118

    def manifest(self, key: str) -> Manifest | None:
        """The home's manifest of the key, else the first good one of a layer."""
        return super().manifest(key) or next((found for each in self.layers if (found := each.manifest(key))), None)

    def layer_of(self, entry: Entry) -> str:
        """The layer that an entry lies in; empty for the home."""
        folder = Path(entry.path).parent
        return next((str(each.path) for each in self.layers if each.store.layout.library == folder), "")

    def unchanged(self, entry: Entry) -> bool:
        """As ``Store.unchanged``; a layer's entry may be handed out until the home has one: a third stat call."""
        if not super().unchanged(entry):
            return False
        return entry.manifest_path.startswith(self._own) or not os.path.lexists(f"{self._own}{entry.key}.json")

    def still(self, entry: Entry) -> bool:
        """As ``Store.still``; what lies in a layer is removed by nobody here, and a stat of a dead share never ends."""
        return bool(self.layer_of(entry)) or super().still(entry)

    def survey(self) -> None:
        """Look at every layer once, beside everything else, so that the log says how each is."""
        for layer in self.layers:
            threading.Thread(target=layer.look, name="survey", daemon=True).start()

    def everything(self) -> Iterator[tuple[str, Path, Manifest]]:
        """Every readable entry that would be found: its layer (empty for the home), its artifact, its manifest."""
        seen = set()
        for found in super().everything():
            seen.add(found[2].key)
            yield found
        for layer in self.layers:
            for manifest in layer.manifests():
                if manifest.key not in seen:
                    seen.add(manifest.key)
                    yield str(layer.path), layer.store.layout.library / manifest.artifact, manifest


def layers_of(text: str) -> tuple[Path, ...]:
    """The folders of a setting: absolute paths with ``:`` between them."""
    return tuple(Path(each) for each in text.split(":") if each)
