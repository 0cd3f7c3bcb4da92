"""The room that watches: one thread that takes in what was asked, what events say and what looks found, and acts.

Nothing here is needed for a right answer, and nothing here is waited for by the engine: looks at model folders are
taken in a thread of their own (``looks``), compilers are asked in another (``asker``), and both are left behind if they
hang. What a look means is decided in ``judge``, what follows for keys in ``mlc_jitd.asks``.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlc_jit import messages as m
from mlc_jit.errors import JitError, StoreError
from mlc_jitd.asks import GONE, UNSEEN, Asks, Folder, Question, digest
from mlc_jitd.engine import Onlooker
from mlc_jitd.tally import Tally
from mlc_jitd.watch import judge, views
from mlc_jitd.watch.arming import CHECK_SECONDS, SCAN_SECONDS, Arming, Watched
from mlc_jitd.watch.following import Following
from mlc_jitd.watch.keeping import keep
from mlc_jitd.watch.lane import Lane
from mlc_jitd.watch.look import mark
from mlc_jitd.watch.looks import Looks
from mlc_jitd.watch.observer import Events
from mlc_jitd.watch.subscribers import Subscribers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlc_jit.messages import JitRequest
    from mlc_jitd.engine import Engine
    from mlc_jitd.identity import Identity
    from mlc_jitd.peers import Peer
    from mlc_jitd.store import Entry
    from mlc_jitd.watch.look import Look
    from mlc_jitd.work import LookUp, Work

logger = logging.getLogger(__name__)

RESCAN_SECONDS = 5.0
"""How often every folder is looked at because events were lost, at most."""
ARM_SECONDS = 0.1
"""How often it is worked out which folders are to be watched, at most."""
ASKED_SECONDS = 3600.0
"""How exactly it is noted when a folder was last asked for."""

INNER = b"\0\0inner"


class Watcher(Onlooker):
    """See the module's docstring.

    Args:
        engine: Is followed, asked, and told what to forget.
        work: Works keys out.
        asks: Who asks for what.
        listed: Lists of what the daemon is to have from its start.
    """

    def __init__(
        self,
        engine: Engine,
        work: Work,
        asks: Asks,
        *,
        listed: Sequence[Path] = (),
    ) -> None:
        self._engine = engine
        self._work = work
        self._asks = asks
        self.tally = Tally()
        self.subscribers = Subscribers(engine.reply)
        self._inbox: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._folders: dict[str, Watched] = {}
        self._stale: frozenset[str] = frozenset()
        self._looks = Looks(lambda held, found: self.post(self._found, held, found))
        self.asker = Lane("watch-asker")
        self._poked: set[str] = set()
        self._losses = Tally()
        self._events = Events(self._poke, self._lose)
        self._arming = Arming(self._events)
        self._unarmed = False
        self._following = Following(engine, work, asks, self, listed)
        self._told_trouble = ""
        self._ending = self._stirred = False
        self._next_check = self._next_arm = self._next_rescan = 0.0
        self._lost_why = ""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    # --- called from other threads ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, with the folders that are known from before."""
        self.post(self._begin)
        self._thread.start()

    def close(self) -> None:
        """Tell the subscribers and end; what hangs is left behind."""
        self.subscribers.tell("ended", detail="the daemon ends")
        self._ending = True
        self.post(lambda: None)
        self._thread.join(2.0)

    def looked_up(self, peer: Peer, request: JitRequest, found: LookUp) -> None:
        """A request was looked up: its folder is known from now on."""
        if os.path.isabs(request.model_path):  # noqa: PTH117 - text stays text
            inner = peer.identity.startswith(INNER)
            seen = not inner and sees_what_we_see(peer.pid)
            self.post(self._asked, request, found.identity.key, 0.0 if inner else time.time(), seen)

    def published(self, identity: Identity, entry: Entry) -> None:
        """A library was compiled."""
        detail = f"{identity.model_type} {identity.quantization} in {entry.manifest.compile.seconds:.1f} s"
        self.subscribers.tell("compiled", key=entry.key, folder=entry.manifest.model.path, detail=detail)

    def gone(self, identity: bytes) -> None:
        """A connection is no more."""
        self.subscribers.gone(identity)

    def keep(self, peer: Peer, message: m.Keep) -> None:
        """Answer ``keep``."""

        def task() -> None:
            try:
                kept = keep(self._work, self._asks, message, now=time.time())
            except JitError as error:
                self._engine.reply(peer, m.Failure.of(error, id=message.id))
                return
            self.post(self._look_anew, kept.folder)
            self._engine.reply(peer, kept)

        self.asker.do(task)

    def complete(self, message: m.Message) -> m.Message:
        """A status or a listing with what this room knows."""
        if isinstance(message, m.Status):
            counted = self.tally.read("watch_") | self._losses.read("watch_lost_")
            return views.of_status(message, self._asks, dict(self._folders), counted | self._numbers())
        if isinstance(message, m.Listing):
            return views.of_listing(message, self._asks)
        return message

    def _numbers(self) -> dict[str, int]:
        return {
            "watch_remade": self._events.remade,
            "watch_listeners": len(self.subscribers),
            "watch_folders": len(self._folders),
            "watch_events_on": self._events.watched,
        }

    def post(self, handler: Callable[..., None], *arguments: Any) -> None:
        """Have something done in this room's thread."""
        self._inbox.put((handler, arguments))

    def glance(self) -> None:
        """Compare the marks of all folders whose file systems answer; in the daemon's rounds."""
        for held in list(self._folders.values()):
            last = held.last
            if last is not None and not held.looking and self._arming.glanced(held) and mark(held.path) != last.mark:
                self.post(self._glimpsed, held)
        if not self._events.alive:
            self.post(self._check)

    def _poke(self, folder: str) -> None:
        """An event. Many are one: 20,000 of them must not fill the inbox."""
        if folder not in self._poked:
            self._poked.add(folder)
            self.post(self._happened, folder)

    def _lose(self, why: str) -> None:
        """Events may have been lost."""
        self._losses.add(why.replace(" ", "_"))
        if not self._lost_why:
            self._lost_why = why
            self.post(_nothing)  # wakes the thread

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ending:
            try:
                handler, arguments = self._inbox.get(timeout=self._patience())
            except queue.Empty:
                handler, arguments = _nothing, ()
            try:
                handler(*arguments)
                self._on_time()
            except Exception:
                self.tally.add("errors")
                logger.exception("watching: %s failed", handler.__name__)
        self._events.close()
        for each in (self._looks, self.asker):
            each.close()

    def _patience(self) -> float:
        if self._unarmed:
            return ARM_SECONDS
        now = time.monotonic()
        dues = [each.state.due for each in self._folders.values() if not each.looking]
        restless = self._stirred or self._lost_why or self._following.pending or len(dues) < len(self._folders)
        return max(0.02, min([now + (CHECK_SECONDS if restless else SCAN_SECONDS), *dues]) - now)

    def _begin(self) -> None:
        self._stale = frozenset(self._asks.stale())
        for folder in self._asks.folders():
            self.admit(folder)
        self._following.begin()

    # --- what is asked ----------------------------------------------------------------------------------------------

    def _asked(self, request: JitRequest, key: str, now: float, seen: bool) -> None:
        path, question, config = request.model_path, Question.of(request), digest(request.config)
        known = self._asks.folder(path)
        if known is None or self._is_news(known, question, config, key, now):
            known = self.change(path, lambda folder: folder.told(question, config, key, now=now))
        held = self.admit(known)
        if seen and held.state.config == UNSEEN:  # it held that a moment ago, whatever it holds now
            self.change(path, lambda folder: folder.saw(config, now=now))
            held.state = replace(held.state, config=config)
            self._unarmed = True
        if config != held.state.config:  # it changed, or the asker sees another folder: a look will tell
            self._look_anew(path)
        elif held.last is None:
            held.due()

    def _is_news(self, folder: Folder, question: Question, config: str, key: str, now: float) -> bool:
        if key not in folder.current():
            return True
        for ask in folder.asks:
            if ask.holds(question):
                return not any(
                    each.config == config and each.key == key and now - each.asked < ASKED_SECONDS
                    for each in ask.answered
                )
        return True

    def admit(self, folder: Folder) -> Watched:
        """A folder as this room holds it, from now on if not before; in this room's thread, as all that follows."""
        held = self._folders.get(folder.path)
        if held is None:
            held = self._folders[folder.path] = Watched(folder.path, judge.State(config=folder.config))
        held.known = frozenset(each.config for ask in folder.asks for each in ask.answered)
        return held

    def _look_anew(self, path: str) -> None:
        folder = self._asks.folder(path)
        if folder is not None:
            self.admit(folder).due(thoroughly=True)

    def change(self, path: str, how: Callable[[Folder], Folder]) -> Folder:
        """Change the registry, and tell which keys became stale or current by it."""
        try:
            folder = self._asks.change(path, how)
            self._told_trouble = ""
        except StoreError as error:
            if error.message != self._told_trouble:
                self._told_trouble = error.message
                logger.warning("%s", error)
            return self._asks.folder(path) or how(Folder(path=path))
        stale = frozenset(self._asks.stale())
        if stale != self._stale:
            for word, keys in (("stale", stale - self._stale), ("current", self._stale - stale)):
                for key in sorted(keys):
                    self.tally.add(word)
                    self.subscribers.tell(word, key=key, folder=path)
            # Asked for again, such a key must come by here, so it may not be answered from memory.
            self._engine.forget(stale - self._stale)
            self._stale = stale
        return folder

    # --- looking ----------------------------------------------------------------------------------------------------

    def _happened(self, folder: str) -> None:
        self._poked.discard(folder)
        self._stirred = True  # a watch that ended says so by an event
        self.tally.add("events")
        for path in self._arming.paths(folder):
            held = self._folders.get(path)
            if held is not None:
                held.state = judge.poked(held.state, time.monotonic())
                held.again = held.looking

    def _rescan(self) -> None:
        """Every folder is looked at, thoroughly."""
        why, self._lost_why = self._lost_why, ""
        logger.info("events may have been lost (%s): every model folder is looked at", why)
        self.subscribers.tell("lost", detail=why)
        self.tally.add("rescans")
        for held in self._folders.values():
            held.due(thoroughly=True)

    def _glimpsed(self, held: Watched) -> None:
        """A mark is not what it was."""
        held.state = replace(held.state, due=0.0)

    def _check(self) -> None:
        now = time.monotonic()
        self._next_check = now + CHECK_SECONDS
        self._stirred = False
        self._events.check()
        self._following.on_time(now)
        if self._looks.check() is not None:
            self._lose("a look hangs")

    def _on_time(self) -> None:
        now = time.monotonic()
        if now >= self._next_check:
            self._check()
        if self._lost_why and now >= self._next_rescan:
            self._next_rescan = now + RESCAN_SECONDS
            self._rescan()
        for held in list(self._folders.values()):
            if held.state.due <= now and not held.looking:
                self._look(held, now)
        if self._unarmed and now >= self._next_arm:
            self._next_arm = now + ARM_SECONDS
            self._arm()

    def _look(self, held: Watched, now: float) -> None:
        # After an event, too: a mark can be equal although the content is not.
        thoroughly = now >= held.scan_due or held.state.burst <= now or held.state.missing <= now
        if not self._looks.take(held, thoroughly=thoroughly):
            held.state = replace(held.state, due=now + SCAN_SECONDS)
        elif thoroughly:
            held.scan_due = now + SCAN_SECONDS

    def _found(self, held: Watched, found: Look) -> None:
        if self._looks.ended(held):
            self._lose("a look came back")
        if held.manner == "unreachable":
            held.manner, self._unarmed = "scan", True
        held.looking, again, held.again = False, held.again, False
        if self._folders.get(held.path) is not held:
            return
        anew = found is not held.last
        self.tally.add("looks", anew)
        before = held.state.config
        held.last = found
        held.state, verdict = judge.looked(
            held.state, found, time.monotonic(), pace=self._arming.pace(held), known=held.known
        )
        if again:
            held.due(thoroughly=True)
        self._unarmed = self._unarmed or anew or verdict != "same"
        match verdict:
            case "seen":
                self.change(held.path, lambda folder: folder.saw(found.config, now=time.time()))
            case "gone":
                self.tally.add("gone")
                self.subscribers.tell("gone", folder=held.path)
                logger.info("%s is gone", held.path)
                self.change(held.path, lambda folder: folder.saw(GONE, now=time.time()))
            case "changed":
                self._following.changed(held, found, back=before == GONE)
            case "same":
                pass
        if verdict in ("seen", "same") and found.payload and held.wanted != found.config == held.state.config:
            self._following.want_kept(held, found)

    def _arm(self) -> None:
        """Watch what should be watched; the folders that were asked for last come first."""
        self._unarmed = False
        asked = {folder.path: folder.asked for folder in self._asks.folders()}
        for path in self._folders.keys() - asked.keys():  # the registry let go of it
            del self._folders[path]
        self._arming.arm(sorted(self._folders.values(), key=lambda each: -asked[each.path]))
        now = time.monotonic()
        for held in self._folders.values():  # what happened before it was watched brought no event
            held.state = replace(held.state, due=min(held.state.due, now + self._arming.pace(held)))


def sees_what_we_see(pid: int) -> bool:
    """Whether a path means the same to a process as to us: it is in our mount namespace, and under our root."""
    if not sys.platform.startswith("linux"):
        return True
    try:
        return all(
            os.path.samestat(os.stat(f"/proc/{pid}/{name}"), os.stat(f"/proc/self/{name}"))  # noqa: PTH116
            for name in ("ns/mnt", "root")
        )
    except OSError:
        return False  # it has ended, or runs in another pid namespace


def _nothing() -> None:
    """Nobody said anything."""
