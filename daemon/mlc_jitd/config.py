"""The daemon's settings, each described once: name, type, default, variable, meaning.

They come from the daemon's environment. What does not belong here: settings of the client (``mlc_jit``), and decisions.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

PREFIX = "MLC_JITD_"


def _setting(default: Any, meaning: str, *, least: float) -> Any:
    return field(default=default, metadata={"meaning": meaning, "least": least})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a daemon behaves. The variable of a field is ``MLC_JITD_`` and its name in capitals."""

    jobs: int = _setting(0, "compiles at a time; 0 for what the cores allow", least=0)
    cores_per_job: int = _setting(0, "cores of one compile; 0 for up to 4", least=0)
    max_queued: int = _setting(256, "waiting compiles beyond which a client is told `busy`", least=1)
    compile_seconds: float = _setting(7200.0, "total time of one compile; 0 for no limit", least=0)
    silence_seconds: float = _setting(1800.0, "time without a line of output; 0 for no limit", least=0)
    drain_seconds: float = _setting(
        60.0, "how long running compiles may go on after SIGTERM or `mlc-jit stop`", least=0
    )
    resolve_seconds: float = _setting(180.0, "how long a compiler may take to say what a device text means", least=1)
    backoff_seconds: float = _setting(5.0, "how long a failed compile answers with its failure", least=0)
    warm: int = _setting(2, "compilers kept imported between compiles; 0 or `off` for none", least=0)
    warm_idle_seconds: float = _setting(600.0, "how long a compiler that nobody needs is kept imported", least=0)

    cgroup: str = _setting(
        "auto", "control groups for compiles: where one is delegated, `own`, `off`, or the delegated folders", least=0
    )

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, *, strict: bool = True) -> Settings:
        """The settings that an environment asks for.

        Args:
            environ: Variables to go by instead of the process's own.
            strict: Refuse a bad value; else it is logged, and the default serves: a slip in some client's environment
                must not keep that client from its library.

        Raises:
            RequestError: A variable has a value that is no number or too small, or no absolute path.
        """
        env = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        for each in dataclasses.fields(cls):
            name = PREFIX + each.name.upper()
            text = env.get(name, "").strip()
            if each.name == "warm":
                text = {"off": "0", "on": ""}.get(text.lower(), text)
            try:
                if text and isinstance(each.default, str):
                    values[each.name] = _folders(name, text)
                elif text:
                    values[each.name] = _number(name, text, type(each.default), each.metadata["least"])
            except RequestError as error:
                if strict:
                    raise
                logger.warning("%s The default, %s, is used.", error.message, each.default)
        return cls(**values)


def _folders(name: str, text: str) -> str:
    """``auto``, ``own``, ``off``, or absolute paths with ``:`` between them."""
    if text.lower() in {"auto", "own", "off"}:
        return text.lower()
    if not all(os.path.isabs(each) for each in text.split(":")):  # noqa: PTH117 - text stays text
        raise RequestError(
            f"{name}={text!r} must be `auto`, `own`, `off` or absolute paths.", remedy=f"Correct or unset {name}."
        )
    return text


def _number(name: str, text: str, kind: type, least: float) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value < float("inf"):
        whole = "a whole number" if kind is int else "a number"
        raise RequestError(
            f"{name}={text!r} must be {whole} of at least {least:g}.", remedy=f"Correct or unset {name}."
        )
    return value
