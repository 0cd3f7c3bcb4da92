"""On what kind of file system a folder lies, from the kernel's mount table. Nothing is written."""

from __future__ import annotations

from pathlib import Path

NETWORK = ("9p", "afs", "beegfs", "ceph", "cifs", "fuse", "glusterfs", "gpfs", "lustre", "nfs", "smb")
"""How the names of file systems begin that may be shared between hosts, or whose locks may be."""

VOLATILE = ("tmpfs", "ramfs")
"""Those that are gone after a restart of the host."""


def is_network(kind: str) -> bool:
    """Whether a type of ``file_system`` may be shared with other hosts, whose processes this one can't see."""
    return kind.startswith(NETWORK)


def file_system(path: Path, *, table: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that a path is, or would be, on; empty where that can't be told.

    Not guaranteed: anything below a folder that can't be looked at. A dead network mount on the way blocks.
    """
    try:
        lines = table.read_text(errors="replace").splitlines()
        real = path.resolve()
    except OSError:
        return ""
    best, kind = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) < 5 or not after:  # noqa: PLR2004 - proc_pid_mountinfo(5)
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))
        if real.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind
