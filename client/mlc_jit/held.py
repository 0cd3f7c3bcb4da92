"""Whether somebody holds the lock of a file: the kernel knows, whoever it is. Takes nothing, writes nothing."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def is_held(path: Path | str) -> bool | None:
    """Whether a process holds the lock of this file, now. Waits for nobody.

    Returns:
        ``None`` where that can't be told: the file can't be opened, or its file system knows no locks. A file that is
        not there is held by nobody.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(fd)
    return False
