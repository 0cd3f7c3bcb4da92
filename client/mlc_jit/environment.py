"""This process's environment as one value, so that what follows from it is worked out once for each state of it.

What does not belong here: what any variable means.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mlc_jit import variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    State = Mapping[Any, Any]
    """Opaque: compare with ``is``."""

_last: dict[Any, Any] | None = None


def state() -> State:
    """A copy of the environment: the same object for as long as no variable changes.

    To compare the undecoded dict behind ``os.environ`` takes less time than one look at a variable.
    """
    global _last  # noqa: PLW0603
    now = getattr(os.environ, "_data", None)
    if now is None:
        now = dict(os.environ)
    last = _last
    if last is None or last != now:
        last = _last = dict(now)
    return last


def own() -> dict[str, str]:
    """``variables.collect`` for this process's environment, as it is now; the same dict while nothing in it changes."""
    global _last_own  # noqa: PLW0603
    now = state()
    last = _last_own
    if last is None or last[0] is not now:
        last = _last_own = (now, variables.collect(os.environ))
    return last[1]


_last_own: tuple[State, dict[str, str]] | None = None
