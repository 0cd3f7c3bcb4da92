"""Where the texts of settings come from: flags, variables, the user's file, the host's; which of them are slips.

A flag beats a variable, a variable beats the user's file, and that beats the host's. What does not belong here: which
settings there are (``config``), and what a text means (``values``).
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlc_jit.errors import RequestError
from mlc_jitd import values

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

PREFIX = "MLC_JITD_"
CONFIG = "MLC_JITD_CONFIG"
"""Names one file that is read instead of the host's and the user's."""

HOST_FILE = Path("/etc/mlc-jitd/config.toml")
NOT_SETTINGS = frozenset(
    PREFIX + name
    for name in (
        "AUTOSTART", "BUSY_SECONDS", "CONFIG", "DAEMON_SILENCE_SECONDS", "JOB", "PASS_ENV", "PYTHON", "RUNTIME_DIR",
        "SHARED", "SOCKET", "START_SECONDS", "SYSTEM", "TOOLCHAIN", "WAIT_SECONDS",
    )
)  # fmt: skip
"""Variables that are ours and no setting of a daemon; so none of them is a setting that was misspelt."""

ALIKE = 0.8

Origin = Literal["default", "file", "variable", "flag"]


@dataclass(frozen=True, slots=True)
class Given:
    """A text somewhere that wants to be a setting.

    Attributes:
        name: Of the setting.
        text: As a variable would have it.
        origin: What kind of place it stands in.
        source: That place: the path of a file, the name of a variable or flag.
        shown: The two together, for people.
    """

    name: str
    text: str
    origin: Origin
    source: str
    shown: str

    def slip(self, error: ValueError) -> RequestError:
        """That the text can't be the setting's value."""
        remedy = "Correct or remove it." if self.origin == "file" else f"Correct or unset {self.source}."
        return RequestError(f"{self.shown} must be {error}.", remedy=remedy)


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def files_of(env: Mapping[str, str]) -> tuple[Path, ...]:
    """The files that an environment leads to, whether they are there or not; the later beats the earlier."""
    if env.get(CONFIG):
        return (Path(env[CONFIG]),)
    named = env.get("XDG_CONFIG_HOME", "")
    base = named if named.startswith("/") else f"{env['HOME']}/.config" if env.get("HOME", "").startswith("/") else ""
    return (HOST_FILE, Path(base) / "mlc-jitd" / "config.toml") if base else (HOST_FILE,)


def of_file(
    path: Path, kinds: Mapping[str, values.Kind], slips: list[RequestError], *, named: bool, lone: Collection[str]
) -> list[Given] | None:
    """What a file says.

    Args:
        path: Of the file.
        kinds: The settings that there are.
        slips: Takes what is wrong.
        named: Whether somebody named the file, so that it ought to be there, and is one daemon's.
        lone: Settings that no file may have which several daemons read.

    Returns:
        Its texts in their order; None if it is not there or can't be read.
    """
    keys = _read(path, slips, named=named)
    return None if keys is None else list(_texts(path, keys, kinds, slips, () if named else lone))


def of_variables(
    env: Mapping[str, str], kinds: Mapping[str, values.Kind], slips: list[RequestError]
) -> Iterator[Given]:
    """What an environment says; arguments as of `of_file`."""
    names = [PREFIX + each.upper() for each in kinds]
    for name in names:
        if env.get(name, "").strip():
            setting = name.removeprefix(PREFIX).lower()
            yield Given(setting, env[name].strip(), "variable", name, f"{name}={env[name]!r}")
    short = [each.removeprefix(PREFIX) for each in names]
    for name in env:
        if not name.startswith(PREFIX) or name in names or name in NOT_SETTINGS:
            continue
        # Only what is nearly a setting: other programs, and later versions, may have variables that begin like ours.
        if difflib.get_close_matches(name.removeprefix(PREFIX), short, 1, ALIKE):
            slips.append(RequestError(f"{name} is no setting.", remedy=_meant(name, names)))


def of_flags(flags: Mapping[str, str]) -> Iterator[Given]:
    """What flags say, by the names of settings."""
    for name, text in flags.items():
        yield Given(name, text, "flag", flag(name), f"{flag(name)} {text}")


def _read(path: Path, slips: list[RequestError], *, named: bool) -> dict[str, Any] | None:
    """What a file says; None if it is not there or can't be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        if named:
            slips.append(RequestError(f"{CONFIG}={path}: {error.strerror}.", remedy=f"Correct or unset {CONFIG}."))
    except OSError as error:
        slips.append(RequestError(f"{path} can't be read: {error.strerror}.", remedy="Make it readable, or remove it."))
    except ValueError as error:  # no TOML, or no UTF-8
        slips.append(RequestError(f"{path} is no TOML: {error}.", remedy="Correct it; until then none of it counts."))
    return None


def _texts(
    path: Path,
    keys: Mapping[str, Any],
    kinds: Mapping[str, values.Kind],
    slips: list[RequestError],
    lone: Collection[str],
) -> Iterator[Given]:
    for key, value in keys.items():
        where = f"`{key}` in {path}"
        if key not in kinds:
            slips.append(RequestError(f"{where} is no setting.", remedy=_meant(key, list(kinds))))
            continue
        if key in lone:
            slips.append(
                RequestError(
                    f"{where} does not count: users' own daemons read this file, too.",
                    remedy=f"Remove it. The daemon that is meant is told by {flag(key)} or {PREFIX}{key.upper()}, as "
                    "the unit of `mlc-jit service install --system` does.",
                )
            )
            continue
        table = isinstance(value, dict) and kinds[key].table
        text = json.dumps(value) if table else values.text_of_toml(value)
        if text is None:
            slips.append(RequestError(f"{where} is a {type(value).__name__}.", remedy="Give one value, or a list."))
        else:
            yield Given(key, text, "file", os.fspath(path), f"`{key} = {text}` in {path}")


def _meant(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, 1, 0.6)
    return (f"Did you mean `{near[0]}`? " if near else "") + "`mlc-jit config` lists all."
