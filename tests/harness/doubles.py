"""The compiler's double (``tests/double``) in one test: models that command it, and what it did."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

HERE = Path(__file__).parents[1] / "double" / "double.py"


def load() -> ModuleType:
    """``tests/double/double.py``."""
    spec = importlib.util.spec_from_file_location("double", HERE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Double:
    """The double as one test uses it.

    Args:
        folder: For models, the log and the double's own packages.
    """

    def __init__(self, folder: Path) -> None:
        self.module = load()
        self.folder = folder
        self.log = folder / "double.log"
        self.packages: Path = self.module.PACKAGES

    def environment(self, *passed: str) -> dict[str, str]:
        """What a client's environment needs; ``passed`` names further variables that reach the compiler."""
        env: dict[str, str] = self.module.environment(self.log)
        env.pop("PATH")
        env["PYTHONPATH"] = str(self.packages)
        env["MLC_JITD_PASS_ENV"] = ",".join((env["MLC_JITD_PASS_ENV"], *passed))
        return env

    def install(self) -> Path:
        """A copy of the double's packages that the test may edit; use it before ``environment``."""
        self.packages = self.module.install(self.folder / "site")
        return self.packages

    def model(self, name: str = "tiny", /, told: dict[str, Any] | None = None, **fields: Any) -> Path:
        """A model folder; ``told`` is what the double shall do, other fields go into the config."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        told = told and {key: str(value) if isinstance(value, Path) else value for key, value in told.items()}
        (folder / "mlc-chat-config.json").write_bytes(self.module.config(told, **fields))
        return folder

    def gate(self, name: str = "gate") -> Path:
        """A path to give as ``wait_for``: the compile goes on once it is touched."""
        return self.folder / name

    def _events(self, kind: str) -> list[int]:
        return [pid for pid, event in self.module.events(self.log) if event == kind]

    def starts(self) -> list[int]:
        """The pids of all compiles that were begun, in order."""
        return self._events("start")

    def ends(self) -> list[int]:
        """The pids of those that came to their end."""
        return self._events("done")

    def resolutions(self) -> list[int]:
        """The pids of all processes that imported the double to resolve a target."""
        return self._events("resolve")

    def children(self) -> list[int]:
        """The pids of processes that compiles started and left running."""
        found = self.module.events(self.log)
        return [int(event.split()[1]) for _, event in found if event.startswith("child ")]

    def overlaps(self) -> bool:
        """Whether two compiles ever ran at the same time."""
        return bool(self.module.overlaps(self.log))
