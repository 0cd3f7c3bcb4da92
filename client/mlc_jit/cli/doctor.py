"""``mlc-jit doctor``: what this host has, what follows from it, and what to do about what is wrong.

The looking is done by ``mlc-jitd doctor``, in a process of its own: a client imports nothing of the daemon, and a
daemon that can't even be imported is a finding.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

SECONDS = 120.0
SIGNS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}
_SIGN, _CHECK, _WIDEST, _NARROWEST = 9, 11, 110, 40


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="show what this host has, what follows from it, and what is wrong; exit code 1 if something is",
        description="Look at everything that compiles depend on. Starts no daemon; changes nothing.",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    report = examine()
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(screen(report, width=shutil.get_terminal_size().columns))
    return int(any(finding["level"] == "problem" for finding in report["findings"]))


def examine() -> dict[str, Any]:
    """What ``mlc-jitd doctor`` says."""
    command = [sys.executable, "-P", "-m", "mlc_jitd", "doctor"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False, env=dict(os.environ))
        report: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _broken(f"`{' '.join(command)}` could not be run: {error}")
    except ValueError:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return _broken(f"`{' '.join(command)}` failed: {''.join(last) or f'exit status {done.returncode}'}")
    return report


def _broken(found: str) -> dict[str, Any]:
    finding = {
        "check": "daemon",
        "level": "problem",
        "found": found,
        "follows": "no daemon can be started from this interpreter",
        "remedy": f"Install mlc-jitd in it again: {sys.executable} -m pip install --force-reinstall mlc-jitd",
        "facts": {},
    }
    return {"version": "", "python": sys.executable, "python_version": "", "system": "", "findings": [finding]}


def screen(report: dict[str, Any], *, width: int) -> str:
    """The report as text."""
    width = max(_NARROWEST, min(width, _WIDEST))
    lines = [
        f"mlc-jitd {report['version']}, Python {report['python_version']} on {report['system']}",
        f"{report['python']}",
        "",
    ]
    for finding in report["findings"]:
        first = f"{SIGNS.get(finding['level'], finding['level']):<{_SIGN}}{finding['check']:<{_CHECK}}"
        hang = " " * len(first)
        lines += textwrap.wrap(f"{first}{_sentence(finding['found'])}", width, subsequent_indent=hang)
        if finding["follows"]:
            lines += textwrap.wrap(_sentence(finding["follows"]), width, initial_indent=hang, subsequent_indent=hang)
        if finding["remedy"]:
            remedy = f"{hang}-> "
            lines += textwrap.wrap(finding["remedy"], width, initial_indent=remedy, subsequent_indent=f"{hang}   ")
    levels = [finding["level"] for finding in report["findings"]]
    lines += ["", f"{_counted(levels.count('problem'), 'problem')}, {_counted(levels.count('note'), 'note')}."]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] if text[:1].isalpha() else text


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s'[: count != 1]}"
