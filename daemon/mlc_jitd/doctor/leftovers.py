"""What crashes left behind: builds, libraries, a socket, processes; and what was set aside as damaged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlc_jit import services
from mlc_jit.held import is_held
from mlc_jitd.build import owners
from mlc_jitd.doctor.finding import Finding
from mlc_jitd.store.layout import Layout, key_of_artifact
from mlc_jitd.store.staging import abandoned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlc_jit.locations import Locations
    from mlc_jitd.doctor.finding import Patient

SOCKETS = Path("/proc/net/unix")


def leftovers(patient: Patient) -> Iterator[Finding]:
    """What takes room or processor time and belongs to nobody."""
    if patient.places is None:
        return
    layout = Layout.of(patient.places.home)
    artifacts = [(path, key) for path in _names(layout.library) if (key := key_of_artifact(path.name))]
    counts = {
        "staging": len(abandoned(layout.staging)),
        "orphans": sum(not layout.manifest(key).exists() for _, key in artifacts),
        "quarantined": len(_names(layout.quarantine)),
        "sockets": int(_stale_socket(patient.places, patient)),
        "processes": len(left := owners.left_behind(patient.places.home)),
    }
    words = {
        "staging": ("build that ended early", "builds that ended early"),
        "orphans": ("library without a manifest", "libraries without a manifest"),
        "quarantined": ("damaged entry", "damaged entries"),
        "sockets": ("socket at which nobody listens", ""),
        "processes": ("process of a compile whose daemon was killed", "processes of compiles whose daemon was killed"),
    }
    found = [f"{count} {words[name][count > 1]}" for name, count in counts.items() if count]
    if left:
        found[-1] += f" (pid {', '.join(map(str, left[:4]))})"
    yield Finding(
        check="leftovers",
        level="note" if found else "ok",
        found=", ".join(found) or "none",
        follows=_follows(counts) if found else "",
        remedy="Start the daemon anew (`mlc-jit stop`; the next request starts one): it ends such processes, replaces "
        "the socket and removes what is older than an hour. `mlc-jit quarantine --clear` removes damaged entries."
        if found
        else "",
        facts=counts,
    )


def _follows(counts: dict[str, int]) -> str:
    if counts["processes"]:
        return "they use processor time for nobody"
    if sum(counts.values()) == counts["sockets"]:
        return "the next daemon replaces it"
    return "they take room and do no harm; all but the newest 16 damaged entries go by themselves"


def _stale_socket(places: Locations, patient: Patient) -> bool:
    """Whether a killed daemon's socket is there. Nobody is called: that would wake a service manager's daemon."""
    installed = services.installed(patient.environ)
    if installed is not None and installed.socket == str(places.socket):
        return False
    if not places.socket.is_socket() or is_held(places.lock) is not False:
        return False
    try:
        listening = SOCKETS.read_text(errors="replace")
    except OSError:
        return False  # not Linux: it can't be told from one that listens
    return not any(line.endswith(f" {places.socket}") for line in listening.splitlines())


def _names(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
