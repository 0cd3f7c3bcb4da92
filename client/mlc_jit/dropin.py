"""Makes an unchanged MLC program use the daemon: ``mlc_llm.interface.jit.jit`` becomes ours.

MLC's own callers (``serve/engine_base.py``, ``interface/package.py``) look ``jit.jit`` up when they call it, so setting
that attribute is enough, before or after they were imported. What they get is upstream's own ``JITResult``. What does
not belong here: asking (``api``), and the hook that starts this in other people's programs (``startup``).
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any

from mlc_jit import log
from mlc_jit.errors import JitError
from mlc_jit.fallback import ORIGINAL
from mlc_jit.importhook import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["install", "installed", "uninstall"]

MODULE = "mlc_llm.interface.jit"

PARAMETERS = (
    ("model_path", "POSITIONAL_OR_KEYWORD", False),
    ("overrides", "POSITIONAL_OR_KEYWORD", False),
    ("device", "POSITIONAL_OR_KEYWORD", False),
    ("system_lib_prefix", "POSITIONAL_OR_KEYWORD", True),
    ("skip_log_jit_policy", "KEYWORD_ONLY", True),
)
"""Upstream's ``jit()`` in 79d603f0: each parameter's name and kind, and whether it has a default."""

RESULT = ("model_lib_path", "system_lib_prefix")

_lock = threading.RLock()
_on = False
_aside: object = None
"""The function of upstream's that is not the one known here, once that was said."""


def install() -> None:
    """Have MLC's engine, server and packager in this process ask the daemon. Any number of times; see ``uninstall``.

    May be called before ``mlc_llm`` is imported, which this does not do, or after. A program that has taken the
    function itself (``from mlc_llm.interface.jit import jit``) before this is called keeps upstream's. Where upstream's
    signature is not the one known here, that is logged once and upstream's function stays in its place; with
    ``MLC_JITD=require`` its call is an error instead.
    """
    global _on  # noqa: PLW0603
    with _lock:
        _on = True
        _watcher.begin()
        module = sys.modules.get(MODULE)
        if module is not None and not hasattr(module, "jit"):
            module = importlib.import_module(MODULE)  # another thread is loading it: this waits for that
        if module is not None:
            _replace(module)


def uninstall() -> None:
    """Undo ``install``. Who has taken our function meanwhile has one that calls upstream's."""
    global _on  # noqa: PLW0603
    with _lock:
        _on = False
        _watcher.end()
        module = sys.modules.get(MODULE)
        original = getattr(getattr(module, "jit", None), ORIGINAL, None)
        if module is not None and original is not None:
            vars(module)["jit"] = original


def installed() -> bool:
    """Whether calls of upstream's ``jit.jit`` in this process come here now."""
    module = sys.modules.get(MODULE)
    return _on and module is not None and hasattr(getattr(module, "jit", None), ORIGINAL)


def _loaded(module: ModuleType) -> None:
    with _lock:
        if _on:
            _replace(module)


_watcher = Watcher(MODULE, _loaded)


def _replace(module: ModuleType) -> None:
    global _aside  # noqa: PLW0603
    from mlc_jit import settings  # noqa: PLC0415 - see importhook: this module is loaded into programs that never ask

    original = getattr(module, "jit", None)
    if not callable(original) or hasattr(original, ORIGINAL):
        return
    changed = difference(module)
    if not changed:
        vars(module)["jit"] = _replacement(module, original)
        return
    if original is _aside:
        return
    _aside = original
    log.warning("mlc-jitd: %s is not the one known here (%s); leaving it as it is", f"{MODULE}.jit", changed)
    if settings.mode() == "require":
        vars(module)["jit"] = _refusal(original, changed)


def difference(module: ModuleType) -> str:
    """What distinguishes a module's ``jit()`` and ``JITResult`` from those known here; empty if nothing does."""
    import dataclasses  # noqa: PLC0415 - see importhook
    import inspect  # noqa: PLC0415 - likewise

    try:
        found = tuple(
            (each.name, each.kind.name, each.default is not each.empty)
            for each in inspect.signature(vars(module)["jit"]).parameters.values()
        )
        fields = tuple(each.name for each in dataclasses.fields(vars(module)["JITResult"]))
    except (KeyError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if found != PARAMETERS:
        return f"its signature is {inspect.signature(vars(module)['jit'])}"
    return "" if fields == RESULT else f"its result has the fields {', '.join(fields)}"


def _replacement(module: ModuleType, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def jit(
        model_path: Any,
        overrides: Any,
        device: Any,
        system_lib_prefix: str | None = None,
        *,
        skip_log_jit_policy: bool = False,
    ) -> Any:
        found = None
        if _on:
            from mlc_jit import api  # noqa: PLC0415 - see importhook

            found = api.library(
                model_path,
                _known(module, overrides),
                device,
                system_lib_prefix,
                log_policy=not skip_log_jit_policy,
                logger=getattr(module, "logger", None),
            )
        if found is None:
            return original(model_path, overrides, device, system_lib_prefix, skip_log_jit_policy=skip_log_jit_policy)
        return vars(module)["JITResult"](found.path, found.system_lib_prefix)

    setattr(jit, ORIGINAL, original)
    return jit


def _known(module: ModuleType, overrides: Any) -> Any:
    """The overrides that upstream's ``jit()`` would look at; it passes over all others without a word."""
    fields = getattr(getattr(module, "ModelConfigOverride", None), "__dataclass_fields__", None)
    if not fields or not overrides or overrides.keys() <= {*fields, "opt"}:
        return overrides
    unknown = sorted(str(name) for name in overrides if name not in fields and name != "opt")
    log.warning("mlc-jitd: overrides that mlc_llm does not know have no effect: %s", ", ".join(unknown))
    return {name: value for name, value in overrides.items() if name in fields or name == "opt"}


def _refusal(original: Callable[..., Any], changed: str) -> Callable[..., Any]:
    @functools.wraps(original)
    def jit(*arguments: Any, **named: Any) -> Any:
        if not _on:
            return original(*arguments, **named)
        raise JitError(
            f"{MODULE}.jit is not the one known to this mlc-jitd ({changed}), and MLC_JITD=require forbids to do "
            "without the daemon.",
            remedy="Update mlc-jitd, or unset MLC_JITD.",
            reason="signature",
        )

    setattr(jit, ORIGINAL, original)
    return jit
