"""Installations of our own packages that tests replace in place, as installers do, and programs that run meanwhile."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = (("mlc_jit", "client"), ("mlc_jitd", "daemon"))

LISTENING = """
import logging
said = []
class Ear(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger("mlc_jit").addHandler(Ear(logging.WARNING))
"""
"""Keeps what the client warns of in ``said``."""

SAYING = LISTENING + 'print(json.dumps({**answer(lambda: jit(*given["ask"]).model_lib_path), "said": said}))\n'
"""Asks once; answers with what it was warned of, besides."""

STEADY = (
    LISTENING
    + """
paths, rounds = set(), 0
while not os.path.exists(given["end"]) or not rounds:
    paths.add(jit(given["model"], {}, "cpu").model_lib_path)
    rounds += 1
    if rounds == 3:
        open(given["end"] + ".steady", "w").close()  # it has loaded what it began with
    time.sleep(0.02)
print(json.dumps({"paths": sorted(paths), "said": said, "rounds": rounds}))
"""
)
"""Asks for ``model`` again and again until the file ``end`` is there; ``end`` + ``.steady`` says that it has begun."""


LOOKS = {"mlc_jitd.life.UPGRADE_SECONDS": 0.5}
"""Constants of a daemon (``daemons.start_daemon``) that looks at its installation in each of its rounds."""


class Installed:
    """An installation of client and daemon.

    Attributes:
        folder: For PYTHONPATH.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put_now(self, *, version: str = "") -> None:
        """The packages of this checkout: what is there goes, and the new files come.

        Args:
            version: What they say that they are, if not what they say anyway.
        """
        self._remove()
        for name, room in ROOMS:
            shutil.copytree(ROOT / room / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        if version:
            (self.folder / "mlc_jit" / "_version.py").write_text(f'__version__ = "{version}"\n')

    def put_commit(self, commit: str) -> None:
        """Likewise, the packages of a commit; the test is skipped where this clone does not hold it."""
        done = subprocess.run(
            ["git", "-C", ROOT, "archive", commit, *(room for _, room in ROOMS)], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"this clone does not hold the commit {commit}: {done.stderr.decode().strip()}")
        self._remove()
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(self.folder / "unpacked", filter="data")
        for name, room in ROOMS:
            (self.folder / "unpacked" / room / name).rename(self.folder / name)
        shutil.rmtree(self.folder / "unpacked")

    @property
    def variables(self) -> dict[str, str]:
        """What makes a process use it."""
        return {"PYTHONPATH": f"{self.folder}:{os.environ['PYTHONPATH']}", "PYTHONDONTWRITEBYTECODE": "1"}

    def _remove(self) -> None:
        for name, _ in ROOMS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
