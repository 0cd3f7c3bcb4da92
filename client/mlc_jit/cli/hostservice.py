"""``mlc-jit service … --system``: the mlc-jitd of all users of a host, in this system or in the tree of an image."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlc_jit import hostservice
from mlc_jit.cli import managers
from mlc_jit.cli.managers import DONE
from mlc_jit.errors import RequestError, StoreUnwritableError
from mlc_jit.hostservice import CONF, CONFIG, SLASH, below
from mlc_jit.locations import SYSTEM_SOCKET
from mlc_jit.services import SERVICE, SOCKET, ours

if TYPE_CHECKING:
    import argparse

BOOTED = Path("/run/systemd/system")
"""There while systemd runs this system. Source: sd_booted(3)."""

NO_MANAGER = (
    "systemd does not run this system now (a container, or an image being built); the socket is there from its next\n"
    "start under systemd."
)
MODE = 0o644


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do it, and give back what there is to say.

    Raises:
        RequestError: Not on this system, not as this user, or not with the files and the interpreter that there are.
        StoreUnwritableError: A file can't be written or removed.
    """
    if not sys.platform.startswith("linux"):
        raise RequestError(
            f"A mlc-jitd for all users of a host is for Linux; it is not offered on this system ({sys.platform}).",
            remedy="For a service of your own: `mlc-jit service install`.",
            reason="system",
        )
    root = Path(os.path.abspath(arguments.root or SLASH))  # noqa: PTH100 - a link stays what was named
    if arguments.what == "status":
        return status(root)
    if root == SLASH and not arguments.dry_run and os.geteuid() != 0:
        raise RequestError(
            f"The service of all users of a host is {arguments.what}ed by root, and you are uid {os.geteuid()}.",
            remedy=f"Run: {sudo(arguments.what)}",
            reason="root",
        )
    doing = {"install": install, "uninstall": uninstall}
    return doing[arguments.what](root, arguments)


def install(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the files, make the user, open the socket."""
    files = hostservice.files(root)
    for path in files:
        if path.exists() and not ours(path):
            raise RequestError(
                f"{path} is there and was not written by `mlc-jit service install --system`.",
                remedy="Move it away, or look after the service by hand.",
            )
    doubt = hostservice.unsafe(sys.executable) if root == SLASH else hostservice.absent(root)
    if doubt is not None and root == SLASH and not arguments.dry_run:
        raise RequestError(
            f"The service would run {sys.executable}, and can't: {doubt.why}.", remedy=doubt.remedy, reason="python"
        )
    lines = [] if doubt is None else [f"PROBLEM: {doubt.why}.", f"{doubt.remedy}", ""]
    config = below(root, CONFIG)
    changed = {path for path, text in files.items() if path.exists() and path.read_text(encoding="utf-8") != text}
    umask = os.umask(0o022)  # the service's user reads its settings, in whatever shell root wrote them
    try:
        lines += [line for path, text in files.items() for line in _put(path, text, dry=arguments.dry_run)]
        if config.exists():
            lines.append(f"kept       {config}")
        else:
            lines += _put(config, hostservice.starting_config(), dry=arguments.dry_run)
    finally:
        os.umask(umask)
    steps = install_steps(root, booted=_booted(root), changed=bool(changed))
    said, left = _take(steps, dry=arguments.dry_run)
    lines += ["", *said]
    if left:
        lines += ["", "Next:", *(f"    {shlex.join(step)}" for step in left)]
    if root == SLASH and not _booted(root):
        lines += ["", NO_MANAGER]
    lines += ["", *_word_for_the_administrator()]
    return {
        "files": [os.fspath(path) for path in (*files, config)], "socket": os.fspath(SYSTEM_SOCKET),
        "home": os.fspath(hostservice.CACHE), "next": [shlex.join(step) for step in left],
        "failed": not arguments.dry_run and (bool(left) or (arguments.now and not _booted(root))),
        "dry_run": arguments.dry_run, "lines": lines,
    }  # fmt: skip


def uninstall(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Close the socket, drain the daemon, remove the files that we wrote. The cache stays, and so does the user."""
    dry, config = arguments.dry_run, below(root, CONFIG)
    there = [path for path in hostservice.files(root) if path.exists()]
    mine = [path for path in there if ours(path)]
    lines: list[str] = []
    left: list[list[str]] = []
    if mine:
        lines, left = _take(uninstall_steps(root, booted=_booted(root)), dry=dry)
    lines += [f"left alone, since it was not written by us  {path}" for path in there if path not in mine]
    if config.exists() and config.read_text(encoding="utf-8", errors="replace") == hostservice.starting_config():
        mine.append(config)
    elif config.exists():
        lines.append(f"left alone, since it was changed  {config}")
    if mine and not left and _booted(root) and SYSTEM_SOCKET.exists():
        mine.append(SYSTEM_SOCKET)  # systemd leaves it; clients would take it for a daemon that is down
    for path in mine:
        if not dry:
            _remove(path)
        lines.append(f"{'would remove' if dry else 'removed'}  {path}")
    if config in mine and not dry and not any(config.parent.iterdir()):
        config.parent.rmdir()
    if mine and _booted(root):
        said, more = _take([["systemctl", "daemon-reload"]], dry=dry)
        lines, left = lines + said, left + more
    if mine:
        cache = below(root, hostservice.CACHE)
        lines += ["", f"The cache in {cache} and the user and group {hostservice.USER} stay as they are."]
    return {
        "files": [os.fspath(path) for path in mine], "failed": bool(left) and not dry, "dry_run": dry,
        "lines": lines or ["No service of all users is installed."],
    }  # fmt: skip


def status(root: Path) -> dict[str, Any]:
    """What is installed, whether it can serve, and what systemd says of it. Starts nothing."""
    found = hostservice.installed(root)
    if found is None:
        lines = ["No service of all users is installed.", "`mlc-jit service install --system` installs it, as root."]
        return {"installed": False, "lines": lines}
    slips = hostservice.misfits(found, root)
    states = managers.states((SOCKET, SERVICE)) if _booted(root) else {}
    config = below(root, CONFIG)
    return managers.report(
        found,
        states,
        slips,
        config=f"{config}{'' if config.exists() else ' (not there: the defaults)'}",
        note=NO_MANAGER if root == SLASH and not states else "",
        remedy="`mlc-jit service install --system` puts it right, as root.",
    )


def install_steps(root: Path, *, booted: bool, changed: bool = False) -> list[list[str]]:
    """The commands behind the files.

    Args:
        root: The tree.
        booted: Whether systemd runs it now.
        changed: A unit is another than before: a daemon that runs has to be started anew with it.
    """
    there = [] if root == SLASH else [f"--root={root}"]
    users = ["systemd-sysusers", *there, CONF]
    if not booted:
        return [users, ["systemctl", f"--root={root}", "enable", SOCKET]]
    again = [["systemctl", "try-restart", SERVICE]] if changed else []
    return [users, ["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", SOCKET], *again]


def uninstall_steps(root: Path, *, booted: bool) -> list[list[str]]:
    """The commands before the files go."""
    if not booted:
        return [["systemctl", f"--root={root}", "disable", SOCKET]]
    return [["systemctl", "disable", "--now", SOCKET, SERVICE]]


def sudo(what: str) -> str:
    """The line that does it as root; with whole paths, since sudo's PATH is another."""
    script = Path(sys.executable).with_name("mlc-jit")
    words = [os.fspath(script)] if script.exists() else [sys.executable, "-P", "-m", "mlc_jit"]
    return shlex.join(["sudo", *words, "service", what, "--system"])


def _put(path: Path, text: str, *, dry: bool) -> list[str]:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return [f"unchanged  {path}"]
    if dry:
        return [f"would write  {path}", *(f"    {line}".rstrip() for line in text.splitlines())]
    managers.write(path, text, mode=MODE)
    return [f"wrote      {path}"]


def _take(steps: list[list[str]], *, dry: bool) -> tuple[list[str], list[list[str]]]:
    """Run commands, each as the one before it is done.

    Args:
        steps: The commands.
        dry: Say them alone.

    Returns:
        What happened, a line for each; and what is still to do.
    """
    if dry:
        return [f"would run  {shlex.join(step)}" for step in steps], []
    lines: list[str] = []
    left: list[list[str]] = []
    for step in steps:
        if left:
            left.append(step)
            continue
        said = managers.do(step)
        lines.append(f"ran        {shlex.join(step)}" if said == DONE else f"FAILED     {shlex.join(step)}: {said}")
        left += [] if said == DONE else [step]
    return lines, left


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise StoreUnwritableError(
            f"{path} can't be removed: {error.strerror or error}.", remedy="Remove it, or make its folder writable."
        ) from error


def _booted(root: Path) -> bool:
    return root == SLASH and BOOTED.is_dir()


def _word_for_the_administrator() -> list[str]:
    group = hostservice.USER
    return [
        f"Who may use it: members of the group {group} (usermod -aG {group} NAME), from their next login.",
        f"Users, roles, compilers and bounds are set in {CONFIG}.",
    ]
