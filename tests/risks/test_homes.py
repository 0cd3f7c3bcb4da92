"""Risk: a home that is odd breaks callers, or is silently not used. docs/homes.md has the rows, each set up for real.

Client and daemon run with a random uid, in a mount namespace of their own; that takes root on Linux.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import PREAMBLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.daemons import Place
    from harness.doubles import Double

DOCUMENT = Path(__file__).parents[2] / "docs" / "homes.md"
UID = 54321
COLUMNS = ["home", "hit", "miss", "said"]

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux, to be somebody else"),
]

ASK = """
import logging
logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
for model in given["models"]:
    print(json.dumps(answer(lambda: jit(model, {}, "cpu").model_lib_path)))
"""


def rows() -> Iterator[dict[str, str]]:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == COLUMNS
    for row in cells[2:]:
        yield dict(zip(COLUMNS, row, strict=True))


@dataclass
class Scene:
    """One row set up: where the home is, what differs in the environment, and what root does in the namespace first."""

    place: Place
    home: Path
    unset: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    mounts: list[str] = field(default_factory=list)

    def own(self, *paths: Path) -> None:
        """Give folders, with what is in them, to the user."""
        for path in paths:
            for each in (path, *path.rglob("*")):
                os.chown(each, UID, UID, follow_symlinks=False)

    def tmpfs(self, path: Path, options: str) -> None:
        """Another file system there, with what was in the folder; the user's."""
        kept = self.place.root / f"kept-{path.name}"
        self.mounts += [
            f"cp -a {path}/. {kept}/",
            f"mount -t tmpfs -o mode=755,uid={UID},gid={UID},{options} tmpfs {path}",
            f"cp -a {kept}/. {path}/ && chown -R {UID}:{UID} {path}",
        ]
        kept.mkdir()


def _read_only(scene: Scene) -> None:
    scene.own(scene.home)
    scene.mounts += [f"mount --bind {scene.home} {scene.home}", f"mount -o remount,bind,ro {scene.home}"]


def _open_home(scene: Scene) -> None:
    scene.own(scene.home / "model_lib")
    scene.home.chmod(0o777)


def _open_library(scene: Scene) -> None:
    scene.own(scene.home)
    (scene.home / "model_lib").chmod(0o777)


def _link(scene: Scene) -> None:
    scene.own(scene.home)
    link = scene.place.root / "link"
    link.symlink_to(scene.home)
    scene.home = link


def _long(scene: Scene) -> None:
    deep = scene.place.root.joinpath(*["d" * 99] * 3)
    deep.parent.mkdir(parents=True)
    scene.home.rename(deep)
    scene.home = deep
    scene.own(deep)


def _no_inode(scene: Scene) -> None:
    scene.tmpfs(scene.home, "size=600m,nr_inodes=20")
    scene.mounts.append(f"i=0; while mkdir {scene.home}/filler$i 2>/dev/null; do i=$((i+1)); done")


def _nothing_set(home: str | None) -> Callable[[Scene], None]:
    def arrange(scene: Scene) -> None:
        scene.unset = ("MLC_LLM_HOME", "XDG_CACHE_HOME", *(("HOME",) if home is None else ()))
        scene.variables = {} if home is None else {"HOME": home}

    return arrange


def _no_home(scene: Scene) -> None:
    scene.own(scene.home)
    scene.unset = ("HOME", "XDG_CACHE_HOME")


def _runtime(path: str, mode: int | None = None) -> Callable[[Scene], None]:
    def arrange(scene: Scene) -> None:
        scene.own(scene.home)
        folder = scene.place.root / path if mode else Path(path)
        scene.variables = {"MLC_JITD_RUNTIME_DIR": str(folder)}
        if mode:
            folder.mkdir()
            scene.own(folder)
            folder.chmod(mode)

    return arrange


def _noexec(scene: Scene) -> None:
    scene.own(scene.home)
    scene.mounts += [f"mount --bind {scene.home} {scene.home}", f"mount -o remount,bind,noexec {scene.home}"]


SCENES: dict[str, Callable[[Scene], None]] = {
    "of this user": lambda scene: scene.own(scene.home),
    "of another user, not writable": lambda _scene: None,
    "mounted read-only": _read_only,
    "writable by everybody, with a `model_lib` of this user": _open_home,
    "its `model_lib` writable by everybody": _open_library,
    "a symbolic link": _link,
    "of a path of 300 characters": _long,
    "on another file system than TMPDIR": lambda scene: scene.tmpfs(scene.home, "size=600m"),
    "on a full disk": lambda scene: scene.tmpfs(scene.home, "size=20m"),
    "on a disk without a free inode": _no_inode,
    "mounted noexec": _noexec,
    "MLC_LLM_HOME set, no HOME": _no_home,
    "no HOME, nothing set": _nothing_set(None),
    "HOME is `/`, nothing set": _nothing_set("/"),
    "HOME does not exist, nothing set": _nothing_set("/nonexistent"),
    "a runtime folder that can't be made": _runtime("/proc/nowhere/runtime"),
    "a runtime folder open to others": _runtime("open-runtime", 0o777),
}


def reachable() -> list[str]:
    """Commands that let everybody reach this interpreter and these sources, in the namespace alone."""
    commands, done = [], set()
    for program in (Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve(), Path(__file__)):
        closed = next((each for each in reversed(program.parents) if not each.stat().st_mode & 0o001), None)
        if closed is None or closed in done:
            continue
        done.add(closed)
        top = closed / program.relative_to(closed).parts[0]
        commands += [
            "mkdir -p $KEEP/top",
            f"mount --bind {top} $KEEP/top",
            f"mount -t tmpfs -o mode=755 tmpfs {closed}",
            f"mkdir {top}",
            f"mount --move $KEEP/top {top}",
        ]
    return commands


def run(scene: Scene, code: str, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run a client as the user, in the scene."""
    import json

    keep = scene.place.folder("keep")
    env = {name: value for name, value in os.environ.items() if name not in scene.unset} | scene.variables
    script = "set -e\n" + "\n".join([*reachable(), *scene.mounts, 'exec "$@"'])
    drop = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"]
    client = [sys.executable, "-P", "-c", PREAMBLE + code, json.dumps(given, default=os.fspath)]
    return subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *drop, *client],
        capture_output=True,
        text=True,
        cwd="/",
        env={**env, "KEEP": str(keep)},
        timeout=50,
        check=False,
    )


@pytest.fixture(scope="module")
def unshare() -> None:
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        pytest.skip("needs unshare and setpriv (util-linux)")
    tried = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"this machine lets nobody mount: {tried.stderr.decode().strip()}")


def test_every_row_is_set_up() -> None:
    assert [row["home"] for row in rows()] == list(SCENES)


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row["home"])
def test_homes(
    row: dict[str, str],
    unshare: None,
    ended: None,
    place: Place,
    double: Double,
    mlc_jit: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import json

    place.stale_sockets = True
    cached, fresh = double.model("cached"), double.model("fresh", temperature=0.1, vocab_size=77)
    seed(cached, place, mlc_jit)
    before = len(double.starts())
    scene = Scene(place, place.cache)
    scene.own(place.runtime, place.tmp, place.home, double.folder)
    SCENES[row["home"]](scene)
    if "MLC_LLM_HOME" not in scene.unset:
        scene.variables.setdefault("MLC_LLM_HOME", str(scene.home))
    done = run(scene, ASK, models=[cached, fresh])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    log = "".join(path.read_text(errors="replace") for path in place.runtime.glob("*.log"))
    assert len(lines) == 2, (done.stdout, done.stderr, log)
    found = {}
    for kind, each, name in (("hit", lines[0], "hit"), ("miss", lines[1], "compiled")):
        found[kind] = name if "result" in each else kind_of(each["error"])
    assert found == {"hit": row["hit"], "miss": row["miss"]}, (lines, done.stderr, log)
    said = " ".join([done.stderr, log, *(each.get("text", "") for each in lines)])
    assert re.sub(r"\s+", " ", row["said"]) in re.sub(r"\s+", " ", said), said
    assert len(double.starts()) - before == (row["miss"] == "compiled")
    if row["hit"] == "hit":
        assert Path(lines[0]["result"]).name == next(iter(kept(scene))).name


def seed(model: Path, place: Place, mlc_jit: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Put the model's entry into the home, as root's: compiled once and then copied, for a key has no place."""
    if not _SEED:
        done = mlc_jit("compile", model, "--device", "cpu", "-q")
        assert done.returncode == 0, done.stderr
        place.end_daemons()
        _SEED.update({path.name: path.read_bytes() for path in (*place.artifacts(), *place.manifests())})
        shutil.rmtree(place.library)
        shutil.rmtree(place.runtime)
        place.runtime.mkdir(mode=0o700)
    place.library.mkdir()
    for name, content in _SEED.items():
        (place.library / name).write_bytes(content)
        (place.library / name).chmod(0o444)


_SEED: dict[str, bytes] = {}


def kept(scene: Scene) -> list[Path]:
    """The artifacts that were there before, as this namespace sees them."""
    return sorted((scene.home / "model_lib").glob("*-*"), key=lambda path: path.stat().st_mtime)


def kind_of(name: str) -> str:
    """``StoreUnwritableError`` as it stands on the wire."""
    import mlc_jit.errors

    kind: str = getattr(mlc_jit.errors, name).kind
    return kind
