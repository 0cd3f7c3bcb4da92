"""Several real users on one daemon: each is a process that drops root's rights before it says a word.

The interpreter and the checkout may be closed to others (a CI's home folder often is), so a user's process is started
as root, imports what a client needs, and only then becomes the user. What it connects with is the user's, as the kernel
sees it; so is every file that it touches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness import daemons
from harness.daemons import PREAMBLE, Client, Place
from harness.doubles import Double

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BECOME = """
import msgspec, zmq, socket, struct, stat, ctypes, encodings.idna, encodings.unicode_escape, filelock, subprocess
import shutil
import mlc_jit.messages.admin, mlc_jit.autostart, mlc_jit.fallback, mlc_jit.interrupt, mlc_jit.asking
import mlc_jit.watching, mlc_jit.services, mlc_jit.prewarming, mlc_jit.cli, argparse, io, contextlib, textwrap, gettext
import importlib, pkgutil, msgpack.fallback, concurrent.futures.thread, tempfile, locale, signal, select, traceback
for each in pkgutil.iter_modules(mlc_jit.cli.__path__):
    importlib.import_module("mlc_jit.cli." + each.name)
from mlc_jit import channel, locations
from mlc_jit import messages as m
os.setgroups(given["groups"]); os.setgid(given["uid"]); os.setuid(given["uid"])
os.umask(0o022)
def command(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = mlc_jit.cli.main(list(words))
        except SystemExit as end:
            code = end.code
    return [code, out.getvalue(), err.getvalue()]
def connected():
    s = zmq.Context.instance().socket(zmq.DEALER)
    s.setsockopt(zmq.LINGER, 0)
    s.connect(f"ipc://{locations.locate().socket}")
    return s
def hear(s, seconds=5.0):
    return m.decode(s.recv(), m.REPLIES, strict=True) if s.poll(seconds * 1000) else None
"""


@dataclass(slots=True)
class User:
    """One user of the host.

    Attributes:
        uid: Also of the user's own group.
        home: Private.
        groups: Supplementary ones.
        place: Of the test.
        variables: Of each of the user's processes.
    """

    uid: int
    home: Path
    place: Place
    groups: tuple[int, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    started: list[Client] = field(default_factory=list)

    def model(self, name: str = "tiny", /, told: dict[str, Any] | None = None, **fields: Any) -> Path:
        """A model folder of the user, closed to others."""
        double = Double(self.home)
        folder = double.model(name, told, **fields)
        for path in (folder, *folder.iterdir()):
            os.chown(path, self.uid, self.uid)
        folder.chmod(0o700)
        return folder

    def code(self, code: str, /, **given: Any) -> Client:
        """A process of the user that runs ``PREAMBLE``, becomes the user, and runs ``code``; it prints a JSON value."""
        facts = {"uid": self.uid, "groups": self.groups, **given}
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", PREAMBLE + BECOME + code, json.dumps(facts, default=os.fspath)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
            env={**os.environ, **self.variables},
        )  # fmt: skip
        self.started.append(Client(process))
        return self.started[-1]

    def ask(self, model: Path, **overrides: Any) -> Client:
        """``jit()`` once."""
        return self.code(daemons.ASK, ask=[model, overrides, "cpu"])

    def command(self, *words: str | Path) -> tuple[int, str, str]:
        """``mlc-jit`` with these words: exit code, standard output, standard error."""
        code, out, err = self.code('print(json.dumps(command(*given["words"])))', words=words).answer()
        return code, out, err


@dataclass(slots=True)
class Host:
    """A host with a system daemon.

    Attributes:
        socket: Of the daemon.
        cache: Its home.
    """

    place: Place
    double: Double
    start: Callable[..., daemons.Daemon]
    socket: Path
    users: dict[int, User] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """The service's cache home."""
        return self.place.cache

    def serve(self, **settings: Any) -> daemons.Daemon:
        """Start the daemon with these settings."""
        environment = {**self.double.environment(), "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("MLC_JITD_PASS_ENV")
        table = {"double": {"python": sys.executable, "environment": environment}}
        lines = ['mode = "system"', *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
        if "toolchains" not in settings:
            lines.append("[toolchains.double]")
            lines.append(f"python = {json.dumps(table['double']['python'])}")
            lines.append("[toolchains.double.environment]")
            lines += [f"{name} = {json.dumps(value)}" for name, value in environment.items()]
        self.place.config.write_text("\n".join(lines))
        return self.start(
            MLC_JITD_SOCKET=str(self.socket),
            MLC_JITD_RUNTIME_DIR=str(self.socket.parent),
            PYTHONPATH="",
            MLC_JITD_PASS_ENV="",
        )

    def user(self, uid: int, *groups: int) -> User:
        """A user of the host."""
        home = self.place.root / f"u{uid}"
        home.mkdir(mode=0o700)
        for name in ("c", "r"):
            (home / name).mkdir(mode=0o700)
            os.chown(home / name, uid, uid)
        os.chown(home, uid, uid)
        found = self.users[uid] = User(
            uid, home, self.place, groups,
            {
                "HOME": str(home), "MLC_LLM_HOME": str(home / "c"), "MLC_JITD_RUNTIME_DIR": str(home / "r"),
                "XDG_CACHE_HOME": str(home / ".cache"), "XDG_CONFIG_HOME": str(home / ".config"),
                "TMPDIR": str(home), "MLC_JITD_SYSTEM": str(self.socket), "MLC_JITD": "require",
            },
        )  # fmt: skip
        return found

    def audit(self) -> list[dict[str, Any]]:
        """What was compiled, for whom."""
        path = self.cache / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def end(self) -> None:
        """No process of any user stays."""
        for user in self.users.values():
            for client in user.started:
                if client.process.poll() is None:
                    client.process.kill()
                client.process.communicate()
