"""Containers of one image, made of mount and pid namespaces and a root of their own; no engine is needed, but root is.

What is real: another mount namespace, another pid namespace (peers have pid 0), another root folder, an empty /tmp and
/run, volumes as bind mounts. What is not: user namespaces, overlay file systems, an engine's seccomp filter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.leftovers import LIMIT, MARK

if TYPE_CHECKING:
    from collections.abc import Mapping

REPOSITORY = Path(__file__).parents[2]
OWN = ("tmp", "run", "proc", "sys", "lost+found")
"""Top folders that a container does not share with its host."""

SETUP = """
set -e
root=$1; shift
mount --make-rprivate /
mount -t tmpfs none "$root"
for top in /*; do
    name=${top#/}
    if [ -L "$top" ]; then cp -P "$top" "$root/$name"
    elif [ -d "$top" ]; then
        mkdir "$root/$name"
        case " $OWN " in *" $name "*) ;; *) mount --rbind "$top" "$root/$name";; esac
    fi
done
chmod 1777 "$root/tmp"
mount -t proc proc "$root/proc"
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
    shift 3
done
shift
exec chroot "$root" "$@"
"""


@dataclass(slots=True)
class Container:
    """One container that runs one command.

    Attributes:
        root: An empty folder of the host on which its root is mounted, in its own namespace.
        volumes: Folders of the host by where they are inside; those that begin with ``ro:`` can't be written there.
        variables: Its environment, besides PATH and the harness's mark.
    """

    root: Path
    volumes: Mapping[str, Path]
    variables: Mapping[str, str] = field(default_factory=dict)

    def start(self, *command: str, log: Path | None = None) -> subprocess.Popen[str]:
        """The command, as pid 1 of the container; it is killed with the process that this returns.

        Args:
            command: The command.
            log: Where its output goes instead of into pipes.
        """
        mounts: list[str] = []
        for inside, outside in self.volumes.items():
            mounts += [os.fspath(outside), inside.removeprefix("ro:"), "ro" if inside.startswith("ro:") else "rw"]
        self.root.mkdir(exist_ok=True)
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        with log.open("ab") if log else contextlib.nullcontext(subprocess.PIPE) as sink:
            return subprocess.Popen(
                [*unshare, "sh", "-c", SETUP, "sh", os.fspath(self.root), *mounts, "--", *command],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, text=True,
                env={"PATH": os.environ["PATH"], "OWN": " ".join(OWN), MARK: os.environ[MARK], **self.variables},
            )  # fmt: skip

    def run(self, *command: str, limit: float = LIMIT) -> subprocess.CompletedProcess[str]:
        """The command, to its end."""
        process = self.start(*command)
        out, err = process.communicate(timeout=limit)
        return subprocess.CompletedProcess(command, process.returncode, out, err)


def require() -> None:
    """Skip, where a test can't have containers."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, for mount and pid namespaces")
    if any(str(path).startswith(("/tmp/", "/run/")) for path in (REPOSITORY, Path(sys.executable))):
        pytest.skip("the interpreter or the checkout lies in /tmp or /run, which a container has its own of")
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"no namespaces can be made here: {tried.stderr.decode().strip()}")
