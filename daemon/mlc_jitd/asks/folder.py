"""One model folder: what was asked of it, which keys that came to, and what follows for those keys. Pure.

A *question* is a request without its config. With a config it comes to a key, so each question keeps the (config, key)
pairs that it came to. A key is *current* for a folder if its config is the one that the folder holds, or if it was
asked for after the folder came to hold what it holds: the asker may see another folder under the same name, in a
container of its own. It is no longer so when the question comes to another key with the same config: the compiler was
replaced. A key that was current for some folder and is for none any more is *stale*.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlc_jit.messages import JitRequest, ToolchainChoice
from mlc_jit.variables import PASSED, is_keyed

if TYPE_CHECKING:
    from collections.abc import Iterable

Keep = Literal["", "prewarm", "pin"]
"""Whether a question is asked again when its config changes (``prewarm``), and its entry never collected (``pin``)."""

MOST_QUESTIONS = 32
MOST_ANSWERS = 8

UNSEEN = ""
"""What a folder holds while the daemon has not seen it: it lies on another host, or in another mount namespace."""
GONE = "gone"
"""What a folder holds that has no config any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request without its config; ``overrides`` and ``environment`` are JSON text, so that 1 and True differ."""

    device: str
    python: str
    toolchain: ToolchainChoice = "auto"
    opt: str = ""
    system_lib_prefix: str | None = None
    overrides: str = "{}"
    environment: str = "{}"
    acceleration: Literal["", "off"] = ""

    @classmethod
    def of(cls, request: JitRequest) -> Question:
        """The question in a request."""
        return cls(
            device=request.device,
            python=request.python,
            toolchain=request.toolchain,
            opt=request.opt,
            system_lib_prefix=request.system_lib_prefix,
            overrides=_text(request.overrides),
            environment=_text(request.environment),
            acceleration=request.acceleration,
        )

    def request(self, config: bytes, folder: str) -> JitRequest:
        """The question asked with a config, in the background."""
        return JitRequest(
            config=config,
            model_path=folder,
            overrides=json.loads(self.overrides),
            opt=self.opt,
            device=self.device,
            system_lib_prefix=self.system_lib_prefix,
            python=self.python,
            toolchain=self.toolchain,
            environment=json.loads(self.environment),
            acceleration=self.acceleration,
            prewarm=True,
        )

    def label(self) -> str:
        """For people: the device, and what else was asked."""
        given = (f"{name}={value}" for name, value in json.loads(self.overrides).items())
        return " ".join(word for word in (self.device, self.opt, *given) if word)

    def declared(self) -> Question:
        """The question without what ``MLC_JITD_PASS_ENV`` added: it changes no key, and may be a secret."""
        given = json.loads(self.environment)
        known = {name: value for name, value in given.items() if name in PASSED or is_keyed(name)}
        return self if len(known) == len(given) else dataclasses.replace(self, environment=_text(known))

    def shape(self) -> Question:
        """The question without what changes no key: how it is compiled, and most of its environment."""
        return dataclasses.replace(self, environment="{}", acceleration="")


@dataclass(frozen=True, slots=True)
class Answered:
    """The key that a question came to with a config (its SHA-256), and the Unix time at which that was last asked."""

    config: str
    key: str
    asked: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question and what it came to, the newest first.

    Attributes:
        question: The question; while it is not kept, as far as its variables are declared ones: nobody asks it again.
        answered: Never empty.
        keep: Whether somebody wants its entry to be there.
        kept: The key that is kept: the last one for which there was an entry.
    """

    question: Question
    answered: tuple[Answered, ...]
    keep: Keep = ""
    kept: str = ""

    def holds(self, question: Question) -> bool:
        """Whether it is the ask of this very question."""
        return self.question in (question, question.declared())


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A model folder.

    Attributes:
        path: As the clients named it, absolute.
        config: SHA-256 of the config that it holds, ``GONE`` or ``UNSEEN``.
        since: Unix time since when it holds that; 0 where that is not known.
        asks: The most recently asked first.
    """

    path: str
    config: str = UNSEEN
    since: float = 0.0
    asks: tuple[Ask, ...] = ()

    @property
    def asked(self) -> float:
        """Unix time at which something was last asked of it."""
        return max((each.asked for ask in self.asks for each in ask.answered), default=0.0)

    @property
    def keep(self) -> Keep:
        """The strongest that holds for one of its questions."""
        kept = {ask.keep for ask in self.asks}
        return "pin" if "pin" in kept else "prewarm" if "prewarm" in kept else ""

    def told(self, question: Question, config: str, key: str, *, now: float) -> Folder:
        """It was asked, and came to a key. ``now`` is 0 where nobody asked and the daemon only worked the key out."""
        ask = self._like(question, key)
        others = tuple(each for each in self.asks if each is not ask)
        before = ask.answered if ask else ()
        was = next((each for each in before if (each.config, each.key) == (config, key)), None)
        moment = max(now, was.asked if was else 0.0)
        answered = (Answered(config, key, moment), *(each for each in before if each is not was))[:MOST_ANSWERS]
        new = Ask(question=question.declared(), answered=answered)
        if ask is not None and ask.keep:
            new = dataclasses.replace(ask, question=question, answered=answered)
        return dataclasses.replace(self, asks=_bounded((new, *others)))

    def saw(self, config: str, *, now: float) -> Folder:
        """The daemon looked and found this config, or ``GONE``.

        A folder whose askers have all seen another config than the daemon does is not the one that they see.
        """
        if config == self.config:
            return self
        if self.config == UNSEEN:
            theirs = any(each.config == config for ask in self.asks for each in ask.answered)
            return dataclasses.replace(self, config=config) if theirs else self
        return dataclasses.replace(self, config=config, since=now)

    def keeping(self, question: Question, keep: Keep, key: str, *, anew: bool = True) -> Folder:
        """A question is kept, and ``key`` is its entry; what is pinned stays so. Without ``anew``: if it still is."""
        found = self._like(question, key)
        if found is None or not (anew or found.keep):
            return self
        strongest: Keep = "pin" if "pin" in (keep, found.keep) else keep
        new = dataclasses.replace(found, question=question, keep=strongest, kept=key)
        return dataclasses.replace(self, asks=tuple(new if ask is found else ask for ask in self.asks))

    def letting_go(self, key: str = "") -> Folder:
        """Nothing of it is kept any more, or not the entry with this key."""
        asks = (
            dataclasses.replace(ask, question=ask.question.declared(), keep="", kept="")
            if not key or ask.kept == key
            else ask
            for ask in self.asks
        )
        return dataclasses.replace(self, asks=tuple(asks))

    def current(self) -> frozenset[str]:
        """The keys that are asked for now."""
        return frozenset(each.key for ask in self.asks for each in ask.answered if self._is_current(ask, each))

    def former(self) -> dict[str, float]:
        """The keys that were asked for and are not any more, and since when (Unix time)."""
        current = self.current()
        found: dict[str, float] = {}
        for ask in self.asks:
            for each in ask.answered:
                if each.key not in current:
                    since = max(self.since, next(one.asked for one in ask.answered if one.config == each.config))
                    found[each.key] = max(found.get(each.key, 0.0), since)
        return found

    def _is_current(self, ask: Ask, each: Answered) -> bool:
        newest = next(one for one in ask.answered if one.config == each.config)
        return each is newest and (self.config in (UNSEEN, each.config) or each.asked > self.since)

    def _like(self, question: Question, key: str) -> Ask | None:
        """The ask that a question belongs to: its own, or one that differs in environment only and came to this key."""
        for ask in self.asks:
            if ask.holds(question):
                return ask
        shape = question.shape()
        for ask in self.asks:
            if ask.question.shape() == shape and ask.answered[0].key == key:
                return ask
        return None


def pinned(folders: Iterable[Folder], keys: Iterable[str] = ()) -> dict[str, str]:
    """Which keys must not be collected, and why, in words.

    Args:
        folders: All that is known.
        keys: Those that were pinned by name.
    """
    found = dict.fromkeys(keys, "pinned")
    for folder in folders:
        for ask in folder.asks:
            if ask.keep == "pin" and ask.kept:
                found[ask.kept] = f"pinned for {folder.path} on {ask.question.device}"
    return found


def stale(folders: Iterable[Folder]) -> dict[str, float]:
    """Which keys some folder asked for and none asks for any more, and since when (Unix time)."""
    former: dict[str, float] = {}
    current: set[str] = set()
    for folder in folders:
        current |= folder.current()
        for key, since in folder.former().items():
            former[key] = max(former.get(key, 0.0), since)
    return {key: since for key, since in former.items() if key not in current}


def digest(config: bytes) -> str:
    """How a config is named here."""
    return hashlib.sha256(config).hexdigest()


def _bounded(asks: tuple[Ask, ...]) -> tuple[Ask, ...]:
    """The most recent ones, and every one that is kept."""
    over = len(asks) - MOST_QUESTIONS
    kept = list(asks)
    for ask in reversed(asks):
        if over > 0 and not ask.keep:
            kept.remove(ask)
            over -= 1
    return tuple(kept)


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)
