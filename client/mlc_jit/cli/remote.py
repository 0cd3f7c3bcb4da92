"""``mlc-jit remote``: the bucket that a fleet shares (docs/fleet.md)."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit.cli.asking import duration, shortened, size, table
from mlc_jit.cli.upkeep import upkeep
from mlc_jit.errors import RequestError

if TYPE_CHECKING:
    import argparse

ACTIONS = {
    "ls": "list what it holds",
    "push": "put libraries of this cache there, signed",
    "pull": "get libraries from there into this cache, verified",
    "gc": "remove what no host has used for long",
    "verify": "check signatures, keys and bytes; exit code 1 if something is wrong",
    "keygen": "make a key that signs: FILE, and FILE.pub for those who trust it",
}
FLAGS = {
    "all": ("push", "pull"),
    "again": ("push",),
    "quick": ("verify",),
    "repair": ("verify",),
    "dry_run": ("gc",),
    "unused_days": ("gc",),
    "max_age_days": ("gc",),
}
_WIDEST, _NARROWEST = 110, 40


def add(verbs: Any) -> None:
    """Declare the verb."""
    listed = "; ".join(f"{name}: {text}" for name, text in ACTIONS.items())
    parser = verbs.add_parser(
        "remote",
        help="look after the bucket that a fleet shares: ls, push, pull, gc, verify, keygen",
        description=(
            f"Look after the bucket that a fleet shares (the setting `remote`). {listed}. No daemon is needed. Exit "
            "codes: 0 all went well, 1 something is wrong or could not be done."
        ),
    )
    parser.add_argument("action", choices=tuple(ACTIONS))
    parser.add_argument("what", metavar="KEY|FILE", nargs="*", help="keys, or their beginnings; for keygen the file")
    parser.add_argument("--all", action="store_true", help="push, pull: every library")
    parser.add_argument("--again", action="store_true", help="push: replace what the same key signed before")
    parser.add_argument("--quick", action="store_true", help="verify: do not read the libraries themselves")
    parser.add_argument("--repair", action="store_true", help="verify: remove what is wrong")
    parser.add_argument("--unused-days", metavar="DAYS", type=float, help="gc: kept so long after the last use (90)")
    parser.add_argument("--max-age-days", metavar="DAYS", type=float, help="gc: kept so long at all; 0 for ever")
    parser.add_argument("--dry-run", "-n", action="store_true", help="gc: remove nothing, only say what would go")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    action = arguments.action
    report = upkeep("remote", action, *_words(arguments), on_progress=_progress)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        print(screen(action, report, now=time.time(), width=shutil.get_terminal_size().columns))
    if action == "verify":
        return int(any(not each["removed"] for each in report["wrong"]))
    return int(action in {"push", "pull"} and any(each["what"] in _BAD for each in report["libraries"]))


def push(keys: list[str]) -> list[dict[str, Any]]:
    """Put libraries of this cache into the bucket; what came of each: ``key``, ``what``, ``why``.

    Raises:
        JitError: No bucket, no key, or the bucket is in trouble.
    """
    return list(upkeep("remote", "push", *keys)["libraries"]) if keys else []


def _words(arguments: argparse.Namespace) -> list[str]:
    words = []
    for name, actions in FLAGS.items():
        value = getattr(arguments, name)
        if value is None or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        if arguments.action not in actions:
            raise RequestError(f"{flag} belongs to `mlc-jit remote {'` and `'.join(actions)}`.")
        words.append(flag if value is True else f"{flag}={value}")
    what = list(arguments.what)
    if arguments.action == "keygen":
        if len(what) != 1:
            raise RequestError("`mlc-jit remote keygen` makes one key.", remedy="Name the file that it goes to.")
        what = [str(Path(what[0]).absolute())]
    if arguments.action == "gc" and what:
        raise RequestError("`mlc-jit remote gc` goes by age and use.", remedy="Name no keys.")
    return [*words, *what]


def screen(action: str, report: dict[str, Any], *, now: float, width: int) -> str:
    """A report as text."""
    width = max(_NARROWEST, min(width, _WIDEST))
    match action:
        case "keygen":
            return _keygen(report)
        case "ls":
            return _listed(report, now)
        case "gc":
            return _collected(report, width)
        case "verify":
            return _verified(report, width)
    return _moved(report, width)


def _keygen(report: dict[str, Any]) -> str:
    return (
        f'{report["file"]} signs; keep it to those who build. On them: remote_key = "{report["file"]}"\n'
        f'{report["file"]}.pub is for everybody who reads:\n  remote_trust = "{report["public"]}"'
    )


def _listed(report: dict[str, Any], now: float) -> str:
    rows = [["KEY", "SIZE", "MODEL", "DEVICE", "WRITTEN", "USED", "SIGNER"]]
    rows += [
        [
            each["key"][:12],
            size(each["size"]),
            each["model"],
            each["device"],
            f"{duration(max(0.0, now - each['modified']))} ago",
            _day(each["used"], now),
            each["signer"][:8] or "nobody",
        ]
        for each in report["libraries"]
        if not each["refused"]
    ]
    refused = [
        shortened(f"refused  {each['name']}: {each['refused']}") for each in report["libraries"] if each["refused"]
    ]
    total = sum(each["stored"] for each in report["libraries"] if not each["refused"])
    count = len(rows) - 1
    last = f"{_counted(count)} in {report['url']}, {size(total)} stored."
    return "\n".join([*([table(rows, right=frozenset({1}))] if count else []), *refused, last])


def _collected(report: dict[str, Any], width: int) -> str:
    word = "would go" if report["dry_run"] else "gone"
    lines = []
    for each in report["removed"]:
        lines.append(f"{word:<9}{each['key'][:12]}  {size(each['size']):>8}  {each['model']}")
        lines += textwrap.wrap(each["reason"], width, initial_indent=" " * 9, subsequent_indent=" " * 9)
    verb = "Would remove" if report["dry_run"] else "Removed"
    what = _counted(len(report["removed"])) if report["removed"] else "no library"
    last = f"{verb} {what} and {report['blobs']} blobs, {size(report['freed'])}, from {report['url']}."
    if report["notes"] or report["leases"]:
        last += f" Old notes of uses: {report['notes']:,}, of leases: {report['leases']:,}."
    last += f" Left: {_counted(len(report['kept']))}."
    return "\n".join([*lines, *textwrap.wrap(last, width)])


def _verified(report: dict[str, Any], width: int) -> str:
    lines = []
    for each in report["wrong"]:
        said = f"{each['name']}: {each['why']}{' (removed)' if each['removed'] else ''}"
        lines += textwrap.wrap(shortened(said), width, initial_indent="wrong    ", subsequent_indent=" " * 9)
    last = f"{_counted(report['libraries'])} in {report['url']}, {size(report['bytes'])}: "
    last += f"{len(report['wrong'])} wrong." if report["wrong"] else "nothing is wrong."
    if report["strays"]:
        blobs = f"{report['strays']} blob{'s'[: report['strays'] != 1]} ({size(report['stray_bytes'])})"
        last += f" {blobs} without a library (`mlc-jit remote gc`)."
    return "\n".join([*lines, *textwrap.wrap(last, width)])


def _moved(report: dict[str, Any], width: int) -> str:
    lines = []
    for each in report["libraries"]:
        head = f"{each['what']:<9}{each['key'][:12]}"
        lines += textwrap.wrap(f"{head}  {each['why']}".rstrip(), width, subsequent_indent=" " * 9)
    return "\n".join([*lines, f"{_counted(len(report['libraries']))}, {report['url']}."])


_BAD = frozenset({"failed", "refused"})


def _progress(value: dict[str, Any]) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{value['done']} of {value['of']}" if value["done"] + 1 < value["of"] else "\r\033[K")
        sys.stderr.flush()


def _day(used: float, now: float) -> str:
    """The last day of a use, in words; uses are told by the day."""
    if not used:
        return "?"
    days = int((now - used) // 86_400) + 1
    return "today" if days <= 0 else f"{days} days ago"


def _counted(count: int) -> str:
    return f"{count:,} {'library' if count == 1 else 'libraries'}"
