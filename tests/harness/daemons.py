"""Real daemons and real clients in processes of their own, as tests start, ask and end them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from harness.leftovers import LIMIT, Scene, alive, until
from mlc_jit import channel
from mlc_jit import messages as m
from mlc_jit.locations import locate

if TYPE_CHECKING:
    from collections.abc import Mapping

READY_SECONDS = LIMIT
SHORTENED = Path(__file__).with_name("shortened.py")

PREAMBLE = """
import json, os, sys, threading, time
import mlc_jit
from mlc_jit import *
given = json.loads(sys.argv[1])
def answer(call):
    began = time.monotonic()
    try:
        found = {"result": call()}
    except JitError as error:
        found = {"error": type(error).__name__, "text": str(error), **error.facts()}
    ended = time.monotonic()
    return {**found, "seconds": ended - began, "ended": ended}
"""
"""Before each client's code. ``given`` is what the test passed; ``answer`` turns a call into plain data."""

ASK = """
print(json.dumps(answer(lambda: jit(*given["ask"]).model_lib_path)))
"""

FLEET = """
start, go = os.pipe()
pids = []
for number, ask in enumerate(given["asks"]):
    if pid := os.fork():
        pids.append(pid)
        continue
    os.close(go)
    os.read(start, 1)  # all at once, when the last one is there
    found = answer(lambda: jit(*ask).model_lib_path)
    with open(f"{given['out']}/{number}.json", "w") as file:
        json.dump(found, file)
    os._exit(0)
os.close(go)
for pid in pids:
    os.waitpid(pid, 0)
print(json.dumps([json.load(open(f"{given['out']}/{n}.json")) for n in range(len(pids))]))
"""


@dataclass(slots=True)
class Place:
    """The folders of one test, all short: the path of a Unix socket has 108 bytes.

    Attributes:
        root: Holds all others.
        config: The daemons' settings, ``MLC_JITD_CONFIG``: an empty file.
        home: ``HOME``.
        cache: ``MLC_LLM_HOME``.
        runtime: ``MLC_JITD_RUNTIME_DIR``.
        tmp: ``TMPDIR``.
        scene: What there was before the test.
        stale_sockets: Whether the test may leave a socket file: it killed a daemon and started none after it.
    """

    root: Path
    config: Path
    home: Path
    cache: Path
    runtime: Path
    tmp: Path
    scene: Scene
    stale_sockets: bool = False

    @property
    def library(self) -> Path:
        """The folder of artifacts and manifests."""
        return self.cache / "model_lib"

    def artifacts(self) -> list[Path]:
        """Every file in the cache that a client could be handed."""
        return sorted(path for path in self.library.glob("*-*") if path.is_file())

    def manifests(self) -> list[Path]:
        """Every manifest in the cache."""
        return sorted(self.library.glob("*.json"))

    def daemons(self) -> list[int]:
        """The pids of this test's living daemons; what one has just forked, and is not yet another program, is none."""
        found: dict[int, tuple[list[str], int]] = {}
        for pid in self.scene.processes():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                words = process.cmdline()
                if "mlc_jitd" in words and "run" in words:
                    found[pid] = words, process.ppid()
        return [pid for pid, (words, parent) in found.items() if found.get(parent, ([], 0))[0] != words]

    def end_daemons(self) -> None:
        """Stop every daemon of this test and wait until it is gone."""
        for pid in self.daemons():
            for number in (signal.SIGCONT, signal.SIGINT):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        until(lambda: not self.daemons(), what="daemons that end")

    def folder(self, name: str) -> Path:
        """A new folder of the test."""
        path = self.root / name
        path.mkdir()
        return path


def status(environ: Mapping[str, str] | None = None) -> m.Status:
    """What the daemon of this environment, or another, says of itself."""
    for reply in channel.query(locate(environ).socket, lambda id_: m.StatusRequest(id=id_)):
        assert isinstance(reply, m.Status), reply
        return reply
    raise AssertionError


def waiters() -> int:
    """How many requests wait for a job."""
    return sum(job.waiters for job in status().jobs)


@dataclass(slots=True)
class Daemon:
    """A ``mlc-jitd run`` that the test started and that has said it is ready."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def stop(self, number: int = signal.SIGTERM, *, limit: float = LIMIT) -> int:
        """Signal it and wait for its end; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(limit)

    def kill(self) -> None:
        """Kill -9."""
        self.stop(signal.SIGKILL)


def start_daemon(log: Path, constants: Mapping[str, float] | None = None, **variables: str) -> Daemon:
    """A daemon that serves.

    Args:
        log: Where its log goes.
        constants: Values of constants of its modules by their full names, where a wait is long and not what is tested.
        variables: Added to its environment.
    """
    program = [str(SHORTENED), "mlc_jitd", json.dumps(constants)] if constants else ["-m", "mlc_jitd"]
    read_end, write_end = os.pipe()
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-P", *program, "run", "--ready-fd", str(write_end)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd="/",
            env={**os.environ, **variables},
            pass_fds=(write_end,),
        )
    os.close(write_end)
    ready, _, _ = select.select([read_end], [], [], READY_SECONDS)
    said = os.read(read_end, 64) if ready else b"nothing"
    os.close(read_end)
    if said != b"ready\n":
        process.kill()
        process.wait()
        raise AssertionError(f"the daemon did not start ({said!r}): {log.read_text()}")
    return Daemon(process, log)


@dataclass(slots=True)
class Client:
    """A child process that runs a client's code."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def answer(self, limit: float = LIMIT) -> Any:
        """What it printed, once it has ended well."""
        out, err = self.process.communicate(timeout=limit)
        assert self.process.returncode == 0, err.decode()
        assert b"Fatal" not in err, err.decode()
        assert b"Traceback" not in err, err.decode()
        return json.loads(out)

    def path(self, limit: float = LIMIT) -> str:
        """The library that it got."""
        said = self.answer(limit)
        assert "result" in said, said
        return str(said["result"])

    def error(self, limit: float = LIMIT) -> dict[str, Any]:
        """The error that it got."""
        said = self.answer(limit)
        assert "error" in said, said
        return dict(said)

    def paths(self, limit: float = LIMIT) -> list[str]:
        """What each process of a fleet got: a path."""
        said = self.answer(limit)
        assert all("result" in each for each in said), said
        return [each["result"] for each in said]

    def errors(self, limit: float = LIMIT) -> list[dict[str, Any]]:
        """What each process of a fleet got: an error."""
        said = self.answer(limit)
        assert all("error" in each for each in said), said
        return list(said)

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.communicate()


class Clients:
    """Starts clients; see the fixture ``client``."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._started: list[Client] = []

    def code(
        self, code: str, variables: dict[str, str] | None = None, *, pass_fds: tuple[int, ...] = (), **given: Any
    ) -> Client:
        """A child that runs ``PREAMBLE`` and ``code``; it gets ``given``, and prints one JSON value."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", PREAMBLE + code, json.dumps(given, default=os.fspath)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._place.root,
            env={**os.environ, **(variables or {})},
            pass_fds=pass_fds,
            process_group=0,
        )
        client = Client(process)
        self._started.append(client)
        return client

    def ask(
        self, model: Path, overrides: dict[str, Any] | None = None, device: str = "cpu", **variables: str
    ) -> Client:
        """A child that calls ``jit()`` once."""
        return self.code(ASK, variables, ask=[model, overrides or {}, device])

    def fleet(self, models: list[Path], **variables: str) -> Client:
        """A child with one process for each model, all of which call ``jit()`` at the same moment.

        Its ``answer`` is the list of what they got; ``paths`` and ``errors`` take it apart.
        """
        out = self._place.folder(f"fleet-{time.monotonic_ns()}")
        return self.code(FLEET, variables, asks=[[model, {}, "cpu"] for model in models], out=out)

    def end(self) -> None:
        """Nobody stays."""
        for client in self._started:
            if client.process.poll() is None:
                os.killpg(client.pid, signal.SIGKILL)  # a fleet's members too: they hold its pipes
            client.process.communicate()


def command(*words: str | Path, limit: float = LIMIT, **variables: str) -> subprocess.CompletedProcess[str]:
    """``mlc-jit`` with these words, run to its end."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "mlc_jit", *map(os.fspath, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, **variables},
        timeout=limit,
        check=False,
    )


__all__ = ["Client", "Clients", "Daemon", "Place", "alive", "command", "start_daemon", "status", "until", "waiters"]
