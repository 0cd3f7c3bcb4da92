"""The daemon of this home: whether one runs, of which version, and why the last one did not start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mlc_jit import channel
from mlc_jit import messages as m
from mlc_jit._version import __version__
from mlc_jit.errors import JitError
from mlc_jit.reach import served
from mlc_jitd.doctor.finding import Finding, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jit.locations import Locations
    from mlc_jitd.doctor.finding import Patient


def daemon(patient: Patient) -> Iterator[Finding]:
    """Ask it, if it is there; none is started."""
    off = patient.environ.get("MLC_JITD", "").lower() in ("off", "0")
    if off:
        yield Finding(
            check="client",
            level="note",
            found="MLC_JITD=off",
            follows="jit() is upstream's own in this environment, without any of this",
            remedy="Unset MLC_JITD.",
        )
    places = patient.places
    if places is None:
        return
    try:
        if not served(places.socket) or channel.reach(places.socket) == "down":
            yield _down(places)
            return
        status = _status(places)
    except JitError as error:
        yield problem("daemon", error)
        return
    facts = {"pid": status.pid, "version": status.version, "draining": status.draining, "socket": str(places.socket)}
    found = f"pid {status.pid}, version {status.version}{', draining' if status.draining else ''}, at {places.socket}"
    if status.version != __version__:
        yield Finding(
            check="daemon",
            level="note",
            found=found,
            follows=f"it is not of this client's version, {__version__}",
            remedy="`mlc-jit stop`: the next request starts one of the version that is installed.",
            facts=facts,
        )
        return
    follows = f"{len(status.jobs)} compiles running or queued" if status.jobs else "idle"
    yield Finding(check="daemon", level="ok", found=found, follows=follows, facts=facts)


def _status(places: Locations) -> m.Status:
    for reply in channel.query(places.socket, lambda id_: m.StatusRequest(id=id_)):
        if isinstance(reply, m.Status):
            return reply
        break
    raise JitError(
        "The daemon did not say how it is.", remedy="`mlc-jit stop` ends it; the next request starts another."
    )


def _down(places: Locations) -> Finding:
    facts = {"socket": str(places.socket), "stale_socket": places.socket.exists()}
    try:
        last = json.loads(places.start_error.read_text())
        why, remedy = str(last["message"]), str(last.get("remedy", ""))
    except (OSError, ValueError, KeyError, TypeError):
        return Finding(
            check="daemon", level="ok", found="none is running", follows="the next request starts one", facts=facts
        )
    return Finding(
        check="daemon",
        level="note",
        found=f"none is running; the last one that was started said: {why.rstrip('.')}",
        follows="the next request tries again, and goes on without a daemon if it must",
        remedy=remedy or f"See {places.log}.",
        facts={**facts, "last_error": why},
    )
