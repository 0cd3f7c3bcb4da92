"""Which file systems tell of no changes that were made elsewhere, and where such ones are mounted.

From /proc/self/mountinfo, by the text of a path: asking such a file system itself could hang.
"""

from __future__ import annotations

import re
from pathlib import Path

SILENT = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
        "ocfs2", "overlay", "smb3", "smbfs", "vboxsf", "virtiofs", "wekafs",
    }
)  # fmt: skip
"""Other hosts change what is on them; below an overlay, the layers change without a word."""

MOUNTINFO = Path("/proc/self/mountinfo")

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mounts:
    """The mounts of this process, as they were when this was made.

    Args:
        text: The content of mountinfo; read where it is not given.
    """

    def __init__(self, text: str | None = None) -> None:
        self._types: dict[str, str] = {}
        if text is None:
            try:
                text = MOUNTINFO.read_text(errors="surrogateescape")
            except OSError:
                text = ""  # no Linux: every file system counts as local
        for line in text.splitlines():
            before, _, after = line.partition(" - ")
            words, kinds = before.split(" "), after.split(" ")
            if len(words) > 4 and kinds[0]:  # noqa: PLR2004 - the fifth field is the place
                self._types[_OCTAL.sub(lambda match: chr(int(match[1], 8)), words[4])] = kinds[0]

    def place(self, path: str) -> str:
        """Where the file system is mounted that an absolute path lies on, by its text."""
        while path not in self._types and path not in ("/", ""):
            path = path.rpartition("/")[0] or "/"
        return path

    def kind(self, path: str) -> str:
        """The type of that file system."""
        return self._types.get(self.place(path), "")

    def silent(self, path: str) -> str:
        """The type of the file system, if it does not tell of every change; else nothing."""
        kind = self.kind(path)
        return kind if kind in SILENT or kind.partition(".")[0] in ("fuse", "fuseblk") else ""
