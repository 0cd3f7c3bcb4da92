"""``mlc-jit verify``: are all libraries in the cache whole, and what to do about those that are not."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

from mlc_jit.cli.asking import duration, size
from mlc_jit.cli.upkeep import upkeep

if TYPE_CHECKING:
    import argparse

_KIND, _KEY, _WIDEST, _NARROWEST = 10, 14, 110, 40
LINE_SECONDS = 10.0
"""How often a verification says how far it is where standard error is no terminal."""


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "verify",
        help="check every library, manifest and folder of the cache; exit code 1 if something is wrong",
        description=(
            "Check every library, manifest and folder of the cache; no daemon is needed, and a running one is not in "
            "the way. Exit codes: 0 nothing is wrong (or everything that was has just been set aside), 1 something is."
        ),
    )
    parser.add_argument("keys", metavar="KEY", nargs="*", help="only these: keys, or their beginnings")
    parser.add_argument("--repair", action="store_true", help="move what is damaged to quarantine")
    parser.add_argument(
        "--recompile",
        action="store_true",
        help="compile each KEY again, outside the cache, and compare what the two libraries compute",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    progress = Progress()
    words = [*arguments.keys, *(f"--{name}" for name in ("repair", "recompile") if getattr(arguments, name))]
    try:
        report = upkeep("verify", *words, on_progress=progress.show)
    finally:
        progress.end()
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(screen(report, width=shutil.get_terminal_size().columns))
    wrong = any(each["level"] == "problem" and not each["repaired"] for each in report["findings"])
    return int(wrong or any(each["verdict"] != "equal" for each in report["recompiled"]))


class Progress:
    """How far it is, on standard error: one line that is written over, or one line now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = time.monotonic()
        self._width = 0

    def show(self, tally: Any) -> None:
        """Show it, if it is time to."""
        if "stage" in tally:
            line = f"mlc-jit: {tally['stage']}: {tally['detail']}".rstrip(": ")
        else:
            line = f"mlc-jit: {tally['done']:,} of {tally['of']:,} entries, {size(tally['bytes'])}"
        if self._terminal:
            line = line[: shutil.get_terminal_size().columns - 1]
            sys.stderr.write(f"\r{line:<{self._width}}")
            self._width = len(line)
        elif time.monotonic() - self._shown > LINE_SECONDS:
            self._shown = time.monotonic()
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave nothing on a terminal."""
        if self._width:
            sys.stderr.write(f"\r{' ' * self._width}\r")
            sys.stderr.flush()


def screen(report: dict[str, Any], *, width: int) -> str:
    """The report as text."""
    lines: list[str] = []
    for finding in sorted(report["findings"], key=lambda each: (each["level"] != "problem", each["kind"], each["key"])):
        lines += finding_lines(finding, width=max(_NARROWEST, min(width, _WIDEST)))
    if lines:
        lines.append("")
    count, whole = report["entries"], report["whole"]
    what = f"{count:,} {'entry' if count == 1 else 'entries'}"
    read = f"{size(report['bytes'])} in {duration(report['seconds'])}"
    if not count:
        lines.append(f"No entry is in {report['home']}.")
    elif count == whole:
        lines.append(f"{what} verified, {read}: {'it is' if count == 1 else 'all are'} whole.")
    else:
        lines.append(
            f"{what} verified, {read}: {whole:,} {'is' if whole == 1 else 'are'} whole, {count - whole:,} not."
        )
    for proof in report["recompiled"]:
        lines += ["", *proof_lines(proof, width=max(_NARROWEST, min(width, _WIDEST)))]
    return "\n".join(lines)


def proof_lines(proof: dict[str, Any], *, width: int) -> list[str]:
    """What came of compiling one entry again."""
    found = proof.get("comparison") or {}
    functions: dict[str, dict[str, Any]] = found.get("functions", {})
    equal = [name for name, each in functions.items() if each["verdict"] == "equal"]
    text = [f"{proof['key'][:12]}  {proof['verdict']}"]
    if proof["verdict"] == "equal":
        values = sum(functions[name]["values"] for name in equal)
        text[0] += f": {len(equal)} functions and kernels gave the same {values:,} values, bit for bit"
    elif proof["why"]:
        text[0] += f": {proof['why']}"
    text += [f"-> {proof['remedy']}"] if proof["remedy"] else []
    if functions:
        text.append(f"compiled again in {duration(proof['seconds'])}, compared in {duration(found['seconds'])}")
        text += [f"{name}: {each['why']}" for name, each in functions.items() if each["verdict"] != "equal"]
        for what, names in (
            ("called on the way", found["kernels"]["called"]),
            ("called by the KV cache as its sequences need", found["kernels"]["by_cache"]),
            ("called by nothing, and not compared", found["kernels"]["not_called"]),
        ):
            some = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")  # noqa: PLR2004 - a line or two
            text += [f"{len(names)} kernels {what}: {some}"] if names else []
    lines: list[str] = []
    for number, each in enumerate(text):
        hang = " " * _KEY
        first = "" if number == 0 else hang
        lines += textwrap.wrap(
            each, width, initial_indent=first, subsequent_indent=hang, break_on_hyphens=False, break_long_words=False
        )
    return lines


def finding_lines(finding: dict[str, Any], *, width: int) -> list[str]:
    """One finding: its kind and key, what was found, and what to do."""
    kind = "set aside" if finding["repaired"] else finding["kind"]
    first = f"{kind:<{_KIND}}" + (f"{finding['key'][:12]:<{_KEY}}" if finding["key"] else "")
    hang = " " * _KIND
    found = finding["found"][:1].upper() + finding["found"][1:]
    lines = textwrap.wrap(
        f"{first}{found}", width, subsequent_indent=hang, break_on_hyphens=False, break_long_words=False
    )
    if finding["remedy"]:
        arrow = f"{hang}-> "
        lines += textwrap.wrap(
            finding["remedy"],
            width,
            initial_indent=arrow,
            subsequent_indent=f"{hang}   ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    return lines
