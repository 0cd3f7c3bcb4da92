"""The folders that are used: who owns them, what file system they are on, what room there is."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from mlc_jitd.compiling import STAGING_BYTES
from mlc_jitd.config import Settings
from mlc_jitd.doctor.finding import Finding, problem, size
from mlc_jitd.sources import files_of
from mlc_jitd.store import Layer, layers_of
from mlc_jitd.store.access import distrust
from mlc_jitd.store.filesystem import VOLATILE, can_not_execute, file_system, is_network, why_no_locks
from mlc_jitd.store.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jitd.doctor.finding import Patient

ROOMY_BYTES = 1 << 30


def troubles(patient: Patient) -> Iterator[Finding]:
    """What keeps a daemon from starting at all: a home that can't be, a variable with a bad value."""
    for check, error in patient.troubles:
        yield problem(check, error)


def settings(patient: Patient) -> Iterator[Finding]:
    """Files with settings that somebody else may write: they say what a daemon of this user serves and starts."""
    for path in files_of(patient.environ):
        try:
            doubt = distrust(path.stat(), path)
        except OSError:
            continue
        if doubt is not None:
            yield Finding(
                check="settings",
                level="note",
                found=doubt[0],
                follows="whoever writes there decides what your daemon serves",
                remedy=doubt[1],
                facts={"path": str(path)},
            )


def home(patient: Patient) -> Iterator[Finding]:
    """The cache home: whose it is, whether it can be written, and on what it lies."""
    if patient.places is None:
        return
    layout = Layout.of(patient.places.home)
    kind = file_system(layout.home)
    facts = {"path": str(layout.home), "file_system": kind}
    for folder in (layout.library, layout.locks, layout.staging, layout.quarantine, layout.home):
        doubt = distrust(folder.stat(), folder) if folder.exists() else None
        if doubt is not None:
            level = folder == layout.home
            yield Finding(
                check="home",
                level="note" if level else "problem",
                found=doubt[0],
                follows="others could swap the cache in it" if level else "no daemon will use it",
                remedy=f"{doubt[1]}",
                facts=facts,
            )
            return
    folder = layout.library if layout.library.exists() else layout.home
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Finding(
            check="home",
            level="note",
            found=f"{folder} can't be written",
            follows="what is in the cache is served; nothing can be added",
            remedy="Make it writable for this user, or set MLC_LLM_HOME to a folder that is.",
            facts=facts,
        )
        return
    if can_not_execute(folder):
        yield Finding(
            check="home",
            level="problem",
            found=f"{layout.home} is mounted noexec",
            follows="libraries are compiled and found there, and no process can load them",
            remedy="Mount it without noexec, or set MLC_LLM_HOME to a folder on another file system.",
            facts=facts,
        )
        return
    follows, remedy = "", ""
    if is_network(kind):
        follows = "locks are as good as the file system's flock; artifacts load over the network"
        remedy = "Set MLC_LLM_HOME to a folder on a local disk, one for each host."
    elif kind in VOLATILE:
        follows = "the cache is gone after a restart of the host, and takes memory until then"
        remedy = "Set MLC_LLM_HOME to a folder on a disk."
    where = f" on {kind}" if kind else ""
    yield Finding(
        check="home", level="note" if remedy else "ok", found=f"{layout.home}{where}", follows=follows, remedy=remedy,
        facts=facts,
    )  # fmt: skip


def layers(_patient: Patient) -> Iterator[Finding]:
    """The read-only caches below the home."""
    for path in layers_of(Settings.load(strict=False).layers):
        state = Layer(path).look()
        facts = {"path": str(path), "state": state.state, "file_system": state.file_system}
        if state.state == "ok":
            on = f" on {state.file_system}" if state.file_system else ""
            yield Finding(check="layers", level="ok", found=f"{path}{on}", facts=facts)
            continue
        yield Finding(
            check="layers",
            level="note" if state.state == "missing" else "problem",
            found=f"{path} is {state.state}: {state.detail}",
            follows="it is looked for again at each miss" if state.state == "missing" else "nothing in it is served",
            remedy=state.remedy or "Mount or make it, or take it out of MLC_JITD_LAYERS.",
            facts=facts,
        )


def locking(patient: Patient) -> Iterator[Finding]:
    """Whether two who lock one file exclude each other: one compile per key rests on that."""
    if patient.places is None or not os.access(patient.places.home, os.W_OK | os.X_OK):
        return
    why = why_no_locks(patient.places.home)
    if why:
        yield _no_locks(why)
    else:
        yield Finding(check="locking", level="ok", found="locks in the home exclude each other")


def _no_locks(why: str) -> Finding:
    return Finding(
        check="locking",
        level="problem",
        found=f"locks in the home do not work: {why}",
        follows="one configuration may be compiled twice at a time",
        remedy="Set MLC_LLM_HOME to a folder on a local disk.",
    )


def disk(patient: Patient) -> Iterator[Finding]:
    """Room for a build."""
    if patient.places is None:
        return
    about = os.statvfs(patient.places.home)
    free = about.f_bavail * about.f_frsize
    facts = {"free": free, "needed": STAGING_BYTES, "files_free": about.f_favail}
    found = f"{size(free)} free"
    if free < STAGING_BYTES or about.f_favail == 0 < about.f_files:
        yield Finding(
            check="disk",
            level="problem",
            found=found if free < STAGING_BYTES else "no inode is free",
            follows=f"a compile needs {size(STAGING_BYTES)} while it runs, and will be refused",
            remedy="Make room on the file system of MLC_LLM_HOME, or set MLC_LLM_HOME to another.",
            facts=facts,
        )
        return
    tight = free < ROOMY_BYTES
    yield Finding(
        check="disk",
        level="note" if tight else "ok",
        found=found,
        follows=f"a compile needs {size(STAGING_BYTES)} while it runs" if tight else "",
        remedy="Make room on the file system of MLC_LLM_HOME." if tight else "",
        facts=facts,
    )


def runtime(patient: Patient) -> Iterator[Finding]:
    """The private folder of socket, locks and log."""
    if patient.places is None:
        return
    folder = patient.places.runtime
    kind = file_system(folder)
    facts = {"path": str(folder), "socket": str(patient.places.socket), "file_system": kind}
    remedy = f"Remove it, or `chmod 700 {folder}`, or set MLC_JITD_RUNTIME_DIR to a private folder on a local disk."
    try:
        about = folder.lstat()
    except FileNotFoundError:
        above = next(each for each in folder.parents if each.exists())
        can = os.access(above, os.W_OK | os.X_OK)
        found = f"{folder} is not there yet" + ("" if can else f", and {above} can't be written")
        yield Finding(
            check="runtime", level="ok" if can else "problem", found=found, remedy="" if can else remedy, facts=facts
        )
        return
    except OSError as error:
        found = f"{folder} can't be looked at: {error.strerror}"
        yield Finding(check="runtime", level="problem", found=found, remedy=remedy, facts=facts)
        return
    wrong = ""
    if not stat.S_ISDIR(about.st_mode):
        wrong = "is no folder"
    elif about.st_uid != os.getuid():
        wrong = f"belongs to uid {about.st_uid}"
    elif about.st_mode & 0o022:
        wrong = f"has mode {stat.S_IMODE(about.st_mode):04o}, so others may write to it"
    if wrong:
        found = f"{folder} {wrong}"
        yield Finding(
            check="runtime",
            level="problem",
            found=found,
            follows="no daemon can serve there",
            remedy=remedy,
            facts=facts,
        )
    elif is_network(kind):
        yield Finding(
            check="runtime",
            level="note",
            found=f"{folder} on {kind}",
            follows="a socket there is found by this host alone, and locks may lie",
            remedy="Set MLC_JITD_RUNTIME_DIR to a folder on a local disk.",
            facts=facts,
        )
    else:
        yield Finding(check="runtime", level="ok", found=f"{folder}, private", facts=facts)
