"""Several hosts on this machine: each a home, a runtime folder and a daemon of its own."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness import daemons
from harness.leftovers import LIMIT

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from harness.daemons import Client, Clients, Daemon, Place


@dataclass
class Host:
    """One of them.

    Attributes:
        name: Of its folders.
        variables: What its processes have besides the test's own.
        constants: Of its daemons; see ``daemons.start_daemon``.
    """

    name: str
    root: Path
    variables: dict[str, str]
    _start: Callable[..., Daemon]
    _clients: Clients
    _command: Callable[..., subprocess.CompletedProcess[str]]
    daemons: list[Daemon] = field(default_factory=list)
    constants: dict[str, float] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        name: str,
        place: Place,
        start: Callable[..., Daemon],
        clients: Clients,
        command: Callable[..., subprocess.CompletedProcess[str]],
        variables: dict[str, str],
    ) -> Host:
        """A host with empty folders; its daemon is not yet started."""
        root = place.folder(name)
        (root / "c").mkdir()
        (root / "r").mkdir(mode=0o700)
        own = {"MLC_LLM_HOME": f"{root}/c", **variables, "MLC_JITD_RUNTIME_DIR": f"{root}/r"}
        return cls(name, root, own, start, clients, command)

    @property
    def library(self) -> Path:
        """The folder of artifacts and manifests."""
        return self.root / "c" / "model_lib"

    @property
    def alone(self) -> dict[str, str]:
        """Variables of a process on it that finds no daemon and can't start one: it goes on with `mlc-jitd once`."""
        return {"MLC_JITD_SOCKET": f"{self.root}/nobody/listens"}

    def artifacts(self) -> list[Path]:
        """Every library in its cache."""
        return sorted(path for path in self.library.glob("*-*") if path.is_file())

    def manifest(self) -> dict[str, Any]:
        """Its only manifest."""
        (path,) = self.library.glob("*.json")
        return dict(json.loads(path.read_text()))

    def start(self, **variables: str) -> Daemon:
        """Start its daemon."""
        self.daemons.append(self._start(self.constants, **{**self.variables, **variables}))
        return self.daemons[-1]

    def ask(self, model: Path, **variables: str) -> Client:
        """A process on it that calls ``jit()`` once."""
        return self._clients.ask(model, **{**self.variables, **variables})

    def code_hits(self, model: Path, count: int = 50) -> float:
        """Seconds of the median of so many hits, in one process on it."""
        code = """
jit(given["model"], {}, "cpu")
took = sorted(answer(lambda: jit(given["model"], {}, "cpu").model_lib_path)["seconds"] for _ in range(given["count"]))
print(json.dumps(took[len(took) // 2]))
"""
        return float(self._clients.code(code, self.variables, model=model, count=count).answer())

    def command(self, *words: str | Path, limit: float = LIMIT, **variables: str) -> subprocess.CompletedProcess[str]:
        """``mlc-jit`` on it."""
        return self._command(*words, limit=limit, **{**self.variables, **variables})

    def status(self) -> dict[str, Any]:
        """What its daemon says of itself."""
        found = daemons.status({**os.environ, **self.variables})
        return dict(json.loads(json.dumps(dataclasses.asdict(found))))

    def log(self) -> str:
        """What its daemons logged; daemons of one test share a file."""
        return self.daemons[-1].log.read_text(errors="replace")
