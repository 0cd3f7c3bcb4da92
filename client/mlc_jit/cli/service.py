"""``mlc-jit service``: make mlc-jitd a service of this user's systemd or launchd, undo that, show how it is.

The service of all users of a host is ``hostservice``'s.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sys
from typing import TYPE_CHECKING, Any

from mlc_jit import services
from mlc_jit.autostart import manager_runs
from mlc_jit.cli import hostservice, managers
from mlc_jit.cli.managers import DONE
from mlc_jit.errors import RequestError
from mlc_jit.locations import locate

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

MAC = sys.platform == "darwin"
NO_MANAGER = (
    "No service manager of this user runs here (a container, or a session without one), so nothing is started;\n"
    "clients start a daemon by themselves, as without these files."
)


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "service",
        help="make mlc-jitd a service of systemd or launchd that the first client starts",
        description="Write, remove or show the files that make mlc-jitd a service: on Linux a socket and a service of "
        "your systemd, on macOS an agent of your launchd. The first client starts the daemon, for the cache home and "
        "socket that clients of this environment use. With --system, on Linux: the units, the user and "
        "the settings of one daemon for all users of this host.",
    )
    parser.add_argument("what", choices=("install", "uninstall", "status"))
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--user", action="store_true", help="for this user; the default")
    scope.add_argument("--system", action="store_true", help="for all users of this host, as root; switches it on, too")
    parser.add_argument("--now", action="store_true", help="install: switch it on and start its socket too")
    parser.add_argument("--root", metavar="DIR", help="with --system: the tree of an image instead of this system")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    if arguments.root and not arguments.system:
        raise RequestError("--root goes with --system alone.", remedy="Add --system, or leave --root out.")
    verbs = {"install": install, "uninstall": uninstall, "status": status}
    report = hostservice.run(arguments) if arguments.system else verbs[arguments.what](arguments)
    lines = report.pop("lines")
    print(json.dumps(report, indent=1) if arguments.json else "\n".join(lines))
    return int(report.get("failed", False))


def install(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the files."""
    places = locate()
    files = services.files(places)
    for path in files:
        if path.exists() and not services.ours(path):
            raise RequestError(
                f"{path} is there and was not written by `mlc-jit service install`.",
                remedy="Move it away, or look after the service by hand.",
            )
    lines, failed = [], False
    for path, text in files.items():
        same = path.exists() and path.read_text(encoding="utf-8") == text
        if same or arguments.dry_run:
            lines.append(f"{'unchanged' if same else 'would write'}  {path}")
            if arguments.dry_run and not same:
                lines += [f"    {line}".rstrip() for line in text.splitlines()]
            continue
        managers.write(path, text)
        lines.append(f"wrote  {path}")
    lines += [
        "",
        f"The socket is {places.socket}, for the cache home {places.home};",
        f"{sys.executable} runs the daemon.",
    ]
    steps = _start_steps(next(iter(files)))
    if not _manager_reachable():
        failed = arguments.now
        lines += ["", NO_MANAGER]
    elif arguments.now and not arguments.dry_run:
        said = [managers.do(step) for step in steps]
        failed = any(each != DONE for each in said)
        lines += ["", *(f"{' '.join(step)}: {each}" for step, each in zip(steps, said, strict=True))]
        steps = [step for step, each in zip(steps, said, strict=True) if each != DONE]
    if steps:
        lines += ["", "Next:", *(f"    {' '.join(step)}" for step in steps)]
    if not MAC:
        lines += ["", f"To have it without being logged in: loginctl enable-linger {_user()}"]
    return {
        "files": [os.fspath(path) for path in files], "socket": os.fspath(places.socket),
        "home": os.fspath(places.home), "next": [" ".join(step) for step in steps], "failed": failed,
        "dry_run": arguments.dry_run, "lines": lines,
    }  # fmt: skip


def uninstall(arguments: argparse.Namespace) -> dict[str, Any]:
    """Stop what runs, and remove the files that we wrote."""
    found = services.installed()
    paths = found.paths if found is not None else ()
    lines, removed = [], []
    if paths and not arguments.dry_run and _manager_reachable():
        step = _stop_step(paths[0])
        lines.append(f"{' '.join(step)}: {managers.do(step)}")
    for path in paths:
        if not services.ours(path):
            lines.append(f"left alone, since it was not written by us  {path}")
            continue
        removed.append(os.fspath(path))
        if not arguments.dry_run:
            path.unlink()
        lines.append(f"{'would remove' if arguments.dry_run else 'removed'}  {path}")
    if removed and not arguments.dry_run and not MAC and _manager_reachable():
        managers.do(["systemctl", "--user", "daemon-reload"])
    lines = lines or ["No service of this user is installed."]
    return {"files": removed, "dry_run": arguments.dry_run, "lines": lines}


def status(_arguments: argparse.Namespace) -> dict[str, Any]:
    """What is installed, whether it fits, and what the manager says of it. Starts nothing."""
    found = services.installed()
    if found is None:
        return {
            "installed": False,
            "lines": ["No service of this user is installed; clients start a daemon when they need one.",
                      "`mlc-jit service install` makes it a service."],
        }  # fmt: skip
    places = locate()
    slips = services.misfits(found, os.fspath(places.socket))
    states = _states()
    return managers.report(
        found, states, slips, note="" if states else NO_MANAGER, remedy="Write the files anew: mlc-jit service install"
    )


def _start_steps(path: Path) -> list[list[str]]:
    if MAC:
        return [["launchctl", "bootstrap", f"gui/{os.getuid()}", os.fspath(path)]]
    return [["systemctl", "--user", "daemon-reload"], ["systemctl", "--user", "enable", "--now", services.SOCKET]]


def _stop_step(path: Path) -> list[str]:
    if MAC:
        return ["launchctl", "bootout", f"gui/{os.getuid()}", os.fspath(path)]
    return ["systemctl", "--user", "disable", "--now", services.SOCKET, services.SERVICE]


def _manager_reachable() -> bool:
    return shutil.which("launchctl") is not None if MAC else manager_runs() and shutil.which("systemctl") is not None


def _states() -> dict[str, str]:
    """What the manager says of each part; empty if there is none."""
    if not _manager_reachable():
        return {}
    if MAC:
        said = managers.ran(["launchctl", "print", f"gui/{os.getuid()}/{services.NAME}"])
        return {services.NAME: "loaded" if said is not None and said.returncode == 0 else "not loaded"}
    return managers.states((services.SOCKET, services.SERVICE), "--user")


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
