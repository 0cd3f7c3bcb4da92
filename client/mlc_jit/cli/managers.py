"""What both scopes of ``mlc-jit service`` do: write a file whole, run a command of the manager, say how all is."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

from mlc_jit.autostart import manager_environment
from mlc_jit.errors import StoreUnwritableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlc_jit.services import Installed

SECONDS = 120.0
"""A stop drains: longer than TimeoutStopSec of the units."""

DONE = "done"


def write(path: Path, text: str, *, mode: int | None = None) -> None:
    """Write a file as a whole or not at all, and the folders above it where they are missing.

    Args:
        path: An existing one is replaced.
        text: All of it.
        mode: Of the file; by the umask where not said.

    Raises:
        StoreUnwritableError: It can't be written.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text, encoding="utf-8")
        if mode is not None:
            fresh.chmod(mode)
        fresh.replace(path)
    except OSError as error:
        raise StoreUnwritableError(
            f"{path} can't be written: {error.strerror or error}.", remedy="Make its folder writable for this user."
        ) from error


def report(
    found: Installed, states: Mapping[str, str], slips: Sequence[str], *, config: str = "", note: str = "", remedy: str
) -> dict[str, Any]:
    """What `mlc-jit service status` says of a service that is installed.

    Args:
        found: What its files say.
        states: Of its units, as the manager has them.
        slips: Why it can't serve, a phrase each.
        config: Its file of settings, in words, where it has one of its own.
        note: What else there is to say.
        remedy: What to do about slips.
    """
    lines = [f"files   {path}" for path in found.paths]
    lines += [f"config  {config}"] if config else []
    lines += [f"socket  {found.socket}", f"home    {found.home}", f"python  {found.python}"]
    lines += [f"{name}: {state}" for name, state in states.items()]
    lines += [note] if note else []
    lines += [f"PROBLEM: {slip}" for slip in slips]
    lines += [remedy] if slips else []
    return {
        "installed": True, "files": [os.fspath(path) for path in found.paths], "socket": found.socket,
        "home": found.home, "python": found.python, "states": states, "problems": slips, "failed": bool(slips),
        "lines": lines,
    }  # fmt: skip


def do(step: list[str]) -> str:
    """Run a command; ``DONE``, or why not."""
    try:
        said = _ran(step)
    except subprocess.TimeoutExpired:
        return f"did not end within {SECONDS:.0f} s"
    except OSError as error:
        return f"can't be run: {error.strerror}"
    return DONE if said.returncode == 0 else (said.stderr.strip() or f"exit status {said.returncode}")


def ran(step: list[str]) -> subprocess.CompletedProcess[str] | None:
    """Run a command and give back what it said; None where it can't be run or does not end."""
    try:
        return _ran(step)
    except (OSError, subprocess.TimeoutExpired):
        return None


def states(units: tuple[str, str], *scope: str) -> dict[str, str]:
    """What systemd says of a socket and of the service that it starts.

    Args:
        units: Their names, in this order.
        scope: ``--user`` for the user's own manager.
    """
    found = {}
    for unit in units:
        words = []
        for question in ("is-active", "is-enabled"):
            said = ran(["systemctl", *scope, question, unit])
            words.append((said.stdout.strip() if said is not None else "") or "unknown")
        # A service that a socket starts is not enabled itself.
        found[unit] = words[0] if unit == units[1] else ", ".join(dict.fromkeys(words))
    return found


def _ran(step: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(step, capture_output=True, text=True, timeout=SECONDS, check=False, env=manager_environment())
