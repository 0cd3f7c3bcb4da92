"""Whom the store trusts: files of this user or of root that nobody else may write. Reads modes, changes nothing."""

from __future__ import annotations

import functools
import grp
import os
import pwd
import shlex
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ROOT = 0


def distrust(status: os.stat_result, path: Path | str) -> tuple[str, str] | None:
    """Why a file or folder must not be used, or ``None`` when it may be.

    A file is trusted when this user or root owns it and nobody else may write it. A writable group is nobody else
    when it is this user's private one (same name, no other members: the usual result of a umask of 002). Root's group
    is nobody's: what may write as it is not in its list of members.

    Args:
        status: Its ``lstat`` or ``fstat``.
        path: Only for the message.

    Returns:
        What is wrong, as a sentence without its stop, and the command that puts it right.

    Not looked at: access control lists, the folders above, and capabilities.
    """
    quoted = shlex.quote(str(path))
    uid = os.geteuid()
    if status.st_uid not in (uid, ROOT):
        return (
            f"{path} belongs to {_user(status.st_uid)}, neither to you ({_user(uid)}) nor to root",
            f"If you trust its content: chown {uid} {quoted}",
        )
    if stat.S_ISLNK(status.st_mode):
        return None
    if status.st_mode & stat.S_IWOTH:
        return f"{path} can be written by everybody", f"Run: chmod go-w {quoted}"
    if status.st_mode & stat.S_IWGRP and not _private_group(status.st_gid, status.st_uid):
        return f"{path} can be written by the group {_group(status.st_gid)}", f"Run: chmod g-w {quoted}"
    return None


@functools.lru_cache(maxsize=64)
def _private_group(gid: int, uid: int) -> bool:
    if gid == ROOT or uid != os.geteuid():
        return False
    try:
        group, owner = grp.getgrgid(gid), pwd.getpwuid(uid)
    except KeyError:
        return False
    return group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name}, uid {uid}"
    except KeyError:
        return f"uid {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
