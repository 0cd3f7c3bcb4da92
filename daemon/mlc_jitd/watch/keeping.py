"""What a daemon keeps for somebody: pins and pre-warmed questions. The daemon and ``mlc-jitd keep`` share it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.errors import NotCachedError, RequestError
from mlc_jitd.asks import Question, digest
from mlc_jitd.store import Found
from mlc_jitd.store.layout import key_of_manifest

if TYPE_CHECKING:
    from mlc_jitd.asks import Asks, Folder, Keep
    from mlc_jitd.work import Work

LEAST_PREFIX = 4
"""Hex digits that must be given of a key."""


def keep(work: Work, asks: Asks, message: m.Keep, *, now: float) -> m.Kept:
    """Pin, pre-warm or let go. Slow: it may ask a compiler what a target is.

    Args:
        work: Looks up.
        asks: The registry.
        message: What is wanted.
        now: Unix time.

    Raises:
        NotCachedError: There is no entry that could be kept.
        RequestError: No key, or several, begin with what was given.
        JitError: The request can't be met, or the registry can't be written.
    """
    if message.ask is not None:
        return _keep_question(work, asks, message, message.ask, now)
    if message.folder:
        return _let_go(asks, message)
    key = _one_key(work, asks, message.key)
    if message.keep == "pin":
        asks.pin_key(key)
        return m.Kept(id=message.id, keys=(key,), keep="pin")
    found = asks.unpin_key(key)
    for folder in asks.folders():
        if any(ask.kept == key for ask in folder.asks):
            found = True
            asks.change(folder.path, lambda known: known.letting_go(key))
    return m.Kept(id=message.id, keys=(key,) if found else ())


def _keep_question(work: Work, asks: Asks, message: m.Keep, request: m.JitRequest, now: float) -> m.Kept:
    found = work.look_up(request)
    key = found.identity.key
    if not isinstance(found.answer, Found):
        raise NotCachedError(
            f"There is no usable library for {request.model_path} on {request.device} that could be kept "
            f"({found.answer.reason}).",
            remedy="Compile it first: `mlc-jit compile`.",
            reason=found.answer.reason,
            key=key,
        )
    question, config, wanted = Question.of(request), digest(request.config), _keep_of(message.keep)

    def change(folder: Folder) -> Folder:
        return folder.told(question, config, key, now=now).keeping(question, wanted, key)

    asks.change(request.model_path, change)
    return m.Kept(id=message.id, keys=(key,), keep=wanted, folder=request.model_path)


def _let_go(asks: Asks, message: m.Keep) -> m.Kept:
    path = os.path.abspath(message.folder)  # noqa: PTH100 - text stays text
    folder = asks.folder(path)
    keys = tuple(sorted({ask.kept for ask in folder.asks if ask.keep})) if folder is not None else ()
    if folder is not None:
        asks.change(path, lambda known: known.letting_go())
    return m.Kept(id=message.id, keys=keys, folder=path)


def _one_key(work: Work, asks: Asks, text: str) -> str:
    known = {*asks.keys(), *(ask.kept for folder in asks.folders() for ask in folder.asks if ask.kept)}
    if len(text) >= LEAST_PREFIX:
        for name in os.listdir(work.store.layout.library):  # noqa: PTH208 - ten thousand names
            key = key_of_manifest(name)
            if key is not None:
                known.add(key)
    found = [key for key in known if key.startswith(text)] if len(text) >= LEAST_PREFIX else []
    if len(found) == 1:
        return found[0]
    what = "no library has" if not found else f"{len(found)} libraries have"
    if len(text) < LEAST_PREFIX:
        what = f"at least {LEAST_PREFIX} digits are needed, and this is"
    raise RequestError(
        f"{what[0].upper()}{what[1:]} a key that begins with {text[:64]!r}.", remedy="`mlc-jit list` shows them."
    )


def _keep_of(text: str) -> Keep:
    return "pin" if text == "pin" else "prewarm"
