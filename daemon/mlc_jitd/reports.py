"""What the engine's facts look like to people and callers: rows, places in the queue, troubles and errors. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlc_jit import messages as m
from mlc_jit.errors import JitError
from mlc_jitd import broker as b
from mlc_jitd.elsewhere import FETCHING
from mlc_jitd.explain import part_words
from mlc_jitd.schedule.jobs import Busy, Refused, Waiting
from mlc_jitd.store import Found

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlc_jitd.elsewhere import Arriving
    from mlc_jitd.explain import Near
    from mlc_jitd.identity import Identity, UpstreamName
    from mlc_jitd.store import Entry, Layer, Manifest
    from mlc_jitd.store.upstream import UpstreamNames
    from mlc_jitd.upstream import Stopgap
    from mlc_jitd.work import Explained


def row(path: Path, manifest: Manifest, layer: str = "") -> m.EntryReport:
    """One entry of the listing."""
    return m.EntryReport(
        key=manifest.key,
        path=str(path),
        size=manifest.size,
        created=manifest.created,
        seconds=manifest.compile.seconds,
        model=manifest.model.path,
        device=manifest.device,
        toolchain=f"{manifest.toolchain.name} {manifest.toolchain.versions.get(manifest.toolchain.name, '')}".rstrip(),
        degraded=manifest.degraded,
        layer=layer,
    )


def layer_report(layer: Layer) -> m.LayerReport:
    """One layer of the status; reads its folder."""
    totals, state = layer.totals(), layer.look()
    return m.LayerReport(
        path=state.path,
        state=state.state,
        detail=state.detail,
        remedy=state.remedy,
        entries=totals.entries,
        bytes=totals.bytes,
    )


def stopgap_result(id_: int, identity: Identity, stopgap: Stopgap) -> m.Result:
    """The reply that hands out upstream's own file."""
    return m.Result(
        id=id_,
        path=stopgap.path,
        key=identity.key,
        system_lib_prefix=stopgap.prefix,
        toolchain=identity.toolchain.name,
        warning=stopgap.warning,
    )


def explained(id_: int, found: Explained, files: UpstreamNames, layer_of: Callable[[Entry], str]) -> m.Explained:
    """The reply that says what a request would come to.

    Args:
        id_: Of the request.
        found: What there is to say.
        files: What lies under upstream's names there.
        layer_of: The layer that an entry lies in.
    """
    key, answer, explanation = found.identity.key, found.answer, found.explanation
    if isinstance(answer, Found):
        layer = layer_of(answer.entry)
        where = f"the layer {layer}" if layer else "the cache"
        facts = {"path": answer.entry.path, "words": f"the library is in {where}"}
    else:
        said = explanation.words if answer.reason == "absent" and not answer.remedy else answer.detail
        facts = {"reason": answer.reason, "words": said, "remedy": answer.remedy}
    return m.Explained(
        id=id_,
        key=key,
        hit=isinstance(answer, Found),
        parts=tuple(
            m.PartReport(name=part.name, sha256=part.sha256, words=part_words(part)) for part in found.identity.parts
        ),
        compared=explanation.compared,
        nearest=tuple(map(_near, explanation.nearest)),
        upstream=tuple(
            m.UpstreamReport(device=name.device, file=f"{name.md5}.{name.suffix}", holds=_holds(name, key, files))
            for name in found.upstream
        ),
        **facts,
    )


def _near(near: Near) -> m.NearReport:
    return m.NearReport(
        key=near.summary.key,
        model=near.summary.model,
        toolchain=near.toolchain,
        created=near.summary.created,
        differences=tuple(
            m.DifferenceReport(part=d.part, field=d.field, there=d.there, here=d.here, words=d.words)
            for d in near.differences
        ),
    )


def _holds(name: UpstreamName, key: str, files: UpstreamNames) -> str:
    left = files.look(name.md5, name.suffix)
    if left is None:
        return "nothing"
    if left.copy is None:
        return "unknown"
    return "entry" if left.copy.key == key else "other-entry"


def cannot(answer: Busy | Refused) -> b.Trouble:
    """Why the queue did not take a job, or gave it up."""
    sentence = answer.message[:1].upper() + answer.message[1:] + "."
    remedy = (
        "Ask again later." if isinstance(answer, Busy) else "Compile it on a larger host, or raise this one's limits."
    )
    if answer.reason == "user-bytes":
        remedy = "Ask again tomorrow, or have `user_bytes` raised. What is in the cache is served all the same."
    return b.Trouble("busy", sentence, remedy, answer.reason)


_BLOCKED = {
    "memory": "waits for memory",
    "unknown": "waits for a compile of unknown need to end",
    "gpu": "waits for a GPU",
    "exclusive": "waits to be alone",
}


def place(waiting: Waiting) -> str:
    """A queued job's place, for those who wait for it."""
    place = f"position {waiting.position}"
    if waiting.blocked in _BLOCKED:
        place += f", {_BLOCKED[waiting.blocked]}"
    if waiting.estimate is not None:
        place += f", starts in about {waiting.estimate:.0f} s"
    return place


def trouble_of(error: JitError) -> b.Trouble:
    """An error in the broker's terms."""
    return b.Trouble(error.kind, error.message, error.remedy, error.reason, error.log_path, error.log_tail)


def error_of(trouble: b.Trouble, key: str) -> JitError:
    """The broker's refusal as the error that the caller meets."""
    return m.Failure(
        kind=trouble.kind,
        message=trouble.message,
        remedy=trouble.remedy,
        reason=trouble.reason,
        key=key,
        log_path=trouble.log_path,
        log_tail=trouble.log_tail,
    ).error()


def internal(error: Exception) -> JitError:
    """A fault of ours, for the caller; the log has the rest."""
    return JitError(
        f"The daemon failed: {type(error).__name__}: {error}",
        remedy="Its log has the details (`mlc-jit status` names it); please report this.",
        reason="internal",
    )


def fetching(arriving: Arriving, *, id_: int, key: str, elapsed: float) -> m.Progress:
    """How far a library is that comes from elsewhere.

    Args:
        arriving: It.
        id_: Of the request.
        key: Of the library.
        elapsed: Seconds since it was asked for.
    """
    words, fraction = arriving.words, arriving.fraction
    return m.Progress(id=id_, stage=FETCHING, detail=words, fraction=fraction, elapsed=elapsed, key=key)
