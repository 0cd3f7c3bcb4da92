"""The compilers that an administrator names for many users. Pure."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any, get_args

from mlc_jit import messages as m

_NAME = re.compile(r"[a-zA-Z_]\w*", re.ASCII)
_CHOICES = get_args(m.ToolchainChoice)


@dataclass(frozen=True, slots=True)
class Named:
    """One toolchain of the administrator.

    Attributes:
        name: By which clients choose it (``MLC_JITD_PYTHON``).
        python: Its interpreter.
        toolchain: What of it compiles; ``auto`` leaves that to the client.
        environment: What its compiles get, besides the declared variables of the client.
    """

    name: str
    python: str
    toolchain: m.ToolchainChoice = "auto"
    environment: tuple[tuple[str, str], ...] = ()


def parse_toolchains(text: str) -> tuple[Named, ...]:
    """The administrator's toolchains, from JSON: by name, each a path or ``{python, toolchain, environment}``.

    Raises:
        ValueError: It is none; its text goes on after "must be".
    """
    try:
        table = json.loads(text) if text else {}
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise ValueError("a table of toolchains by name")  # noqa: TRY004 - a setting's slip
    return tuple(_named(name, {"python": each} if isinstance(each, str) else each) for name, each in table.items())


def _named(name: str, given: Any) -> Named:
    if not isinstance(given, dict) or not isinstance(given.get("python"), str) or not os.path.isabs(given["python"]):  # noqa: PTH117
        raise ValueError(f"a table in which `{name}` has the absolute path of its `python`")
    if odd := given.keys() - {"python", "toolchain", "environment"}:
        raise ValueError(f"a table in which `{name}` has `python`, `toolchain` and `environment`, and no `{min(odd)}`")
    choice, variables = given.get("toolchain", "auto"), given.get("environment", {})
    if choice not in _CHOICES:
        raise ValueError(f"a table in which the `toolchain` of `{name}` is one of {', '.join(_CHOICES)}")
    if not isinstance(variables, dict) or not all(
        _NAME.fullmatch(k) and isinstance(v, str) for k, v in variables.items()
    ):
        raise ValueError(f"a table in which the `environment` of `{name}` has texts by the names of variables")
    return Named(name, given["python"], choice, tuple(sorted(variables.items())))
