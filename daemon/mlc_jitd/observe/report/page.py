"""The page: which plots there are, in what order, with which words. No script, no network, light and dark."""

from __future__ import annotations

import time
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from mlc_jit._version import __version__
from mlc_jit.figures import duration, size
from mlc_jitd.observe.record import QUEUED
from mlc_jitd.observe.report.charts import columns, scatter, segments
from mlc_jitd.observe.report.facts import DAY, OTHER
from mlc_jitd.observe.report.markup import Markup, el, joined, raw

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mlc_jitd.observe.record import JobRecord
    from mlc_jitd.observe.report.facts import Bin, Facts, Held, Spent

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""What a browser may load or run for this page: its own style, nothing else."""

ANSWERS = {
    "hit": ("hits", "a-hit"),
    "joined": ("joined a compile", "a-joined"),
    "compiled": ("compiled", "a-compiled"),
    "stopgap": ("upstream's file", "a-stopgap"),
    "refused": ("refused", "a-refused"),
}
"""What is counted, how it is called, and its class; from the bottom of a column to its top."""

OUTCOMES = {
    "compiled": ("compiled", "o-good"),
    "found": ("made by another process", "o-found"),
    "failed": ("failed", "o-bad"),
    "cancelled": ("cancelled", "o-off"),
    "withdrawn": ("withdrawn", "o-off"),
}

COLOURS = 8
"""Colours that tell things apart; what comes later shares the last one's."""


def page(facts: Facts) -> str:
    """The whole page, as HTML."""
    style = (Path(__file__).parent / "style.css").read_text()
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"mlc-jitd: {facts.title}"),
        el("style", raw(style)),
    )
    sections = (_over_time, _stage_by_stage, _answered, _time_spent, _cache, _failures)
    body = el("body", _header(facts), _tiles(facts), el("main", [each(facts) for each in sections]), _footer(facts))
    return f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n"


def _header(facts: Facts) -> Markup:
    since = ""
    if facts.jobs:
        since = f"Compiles since {_moment(facts.jobs[0].asked)}; "
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.made))
    zone = time.strftime("%Z", time.localtime(facts.made))
    return el(
        "header",
        el("h1", "mlc-jitd"),
        el("p", el("bdi", facts.title), class_="subject"),
        el("p", f"{since}made {made}, times in {zone}", class_="quiet"),
    )


def _tiles(facts: Facts) -> Markup:
    ratio = facts.hit_ratio
    spent = sum(job.ending.seconds for job in facts.jobs)
    tiles = [
        ("without a compile", "none yet" if ratio is None else f"{ratio:.1%}", "of all libraries handed out"),
        ("hits", f"{facts.counts['hit']:,}", f"{facts.counts['joined']:,} joined a compile"),
        ("compiles", f"{facts.outcomes['compiled']:,}", f"{facts.outcomes['failed']:,} failed"),
        ("compile time", duration(spent), "in all"),
        ("cache", size(sum(held.size for held in facts.held)), _count(facts.entries, "library", "libraries")),
    ]
    if facts.saved:
        tiles.insert(4, ("kernels reused", duration(facts.saved), "of one core saved"))
    return el("section", [_tile(*each) for each in tiles], class_="tiles", aria_label="Summary")


def _tile(name: str, figure: str, more: str) -> Markup:
    return el("div", el("p", name, class_="name"), el("p", figure, class_="figure"), el("p", more, class_="quiet"))


def _over_time(facts: Facts) -> Markup:
    if not facts.jobs:
        return _section("Compiles over time", "", _nothing("Nothing has been compiled here yet."))
    points = [(job.asked, _took(job), OUTCOMES[job.ending.outcome][1], _title(job)) for job in facts.jobs]
    told = dict.fromkeys(OUTCOMES[outcome] for outcome in OUTCOMES if facts.outcomes[outcome])
    plot = scatter(points, label=f"{len(points)} compiles, each as high as it took", height=150)
    note = "When each was asked for, and how long the compiler took."
    return _section("Compiles over time", note, joined([_legend(told), plot]))


def _stage_by_stage(facts: Facts) -> Markup:
    if not facts.last:
        return Markup()
    longest = max(job.seconds for job in facts.last)
    rows = [_row(_name(job), _outcome(job), _stages(job, facts.stages, longest)) for job in facts.last]
    shown = {span.name for job in facts.last for span in job.spans}
    legend = [("in the queue", "queued")] if QUEUED in shown else []
    legend += [(stage, _colour(number)) for number, stage in enumerate(facts.stages) if stage in shown]
    legend += [(OTHER, "other")] if shown - {QUEUED, *facts.stages} else []
    what = "The last compile" if len(rows) == 1 else f"The last {len(rows)} compiles, the newest first"
    note = f"{what}; the full width is {duration(longest)}."
    return _section("Stage by stage", note, joined([_legend(legend), el("div", rows, class_="rows")]))


def _stages(job: JobRecord, stages: Sequence[str], longest: float) -> Markup:
    parts = [
        (
            span.seconds,
            "queued" if span.name == QUEUED else _colour_of(span.name, stages),
            f"{span.name}: {duration(span.seconds)}" + (f" ({span.detail})" if span.detail else ""),
        )
        for span in job.spans
    ]
    return segments(parts, longest, label=_title(job))


def _answered(facts: Facts) -> Markup:
    name = "Hits and misses over time"
    if not any(each.counts for each in facts.answers):
        return _section(name, "", _nothing("Nothing is known yet: a daemon writes its counts every five minutes."))
    told = [ANSWERS[kind] for kind in ANSWERS if _answers_of(facts.counts, kind)]
    span = "day" if facts.span == DAY else "hour"
    hits = _columns(facts, ["hit"], f"Hits by the {span}", 80)
    rest = _columns(facts, [kind for kind in ANSWERS if kind != "hit"], f"All other answers by the {span}", 110)
    reasons = [
        _reasons("Why requests were no hit", facts, "misses_"),
        _reasons("Why requests got no library", facts, "refused_"),
    ]
    note = f"What requests got, by the {span}: hits above, and on a scale of its own what was no hit below."
    return _section(name, note, joined([_legend(told), hits, rest, el("div", reasons, class_="columns")]))


def _columns(facts: Facts, kinds: Sequence[str], label: str, height: int) -> Markup:
    bins = [(float(each.begin), _column(each, facts.span, kinds)) for each in facts.answers]
    return columns(bins, span=facts.span, label=label, height=height)


def _column(each: Bin, span: int, kinds: Sequence[str]) -> list[tuple[int, str, str]]:
    when = _moment(each.begin) if span != DAY else time.strftime("%b %d", time.localtime(each.begin))
    pieces = ((_answers_of(each.counts, kind), *ANSWERS[kind]) for kind in kinds)
    return [(count, kind, f"{when}: {count:,} {words}") for count, words, kind in pieces]


def _answers_of(counts: Mapping[str, int], kind: str) -> int:
    if kind != "refused":
        return counts.get(kind, 0)
    return sum(count for name, count in counts.items() if name.startswith("refused_"))


def _reasons(title: str, facts: Facts, prefix: str) -> Markup:
    found = {name.removeprefix(prefix): count for name, count in facts.counts.items() if name.startswith(prefix)}
    if not found:
        return Markup()
    ordered = sorted(found.items(), key=lambda each: -each[1])
    rows = [el("tr", el("td", name), el("td", f"{count:,}")) for name, count in ordered]
    return el("table", el("caption", title), el("tbody", rows))


def _time_spent(facts: Facts) -> Markup:
    if not facts.spent:
        return Markup()
    rows = [_row(each.toolchain or "?", _mean(each), _shares(each, facts.stages)) for each in facts.spent]
    legend = [(stage, _colour(number)) for number, stage in enumerate(facts.stages)]
    if any(stage not in facts.stages for each in facts.spent for stage in each.seconds):
        legend.append((OTHER, "other"))
    names = [el("th", each.toolchain or "?") for each in facts.spent]
    lines = [el("tr", el("td", stage), [_share(each, stage) for each in facts.spent]) for stage in facts.stages]
    table = el("table", el("thead", el("tr", el("th", "stage"), names)), el("tbody", lines))
    note = "Shares of the time of all compiles that came to a library, without their time in the queue."
    plots = [_legend(legend), el("div", rows, class_="rows"), el("div", table, class_="scroll")]
    return _section("Where compile time goes", note, joined(plots))


def _mean(each: Spent) -> str:
    mean = sum(each.seconds.values()) / each.compiles
    return f"{_count(each.compiles, 'compile', 'compiles')}, {duration(mean)} each"


def _shares(each: Spent, stages: Sequence[str]) -> Markup:
    total = sum(each.seconds.values())
    told = {stage: each.seconds[stage] for stage in stages if stage in each.seconds}
    told[OTHER] = total - sum(told.values())
    parts = [(seconds, _colour_of(stage, stages), _part(stage, seconds, total)) for stage, seconds in told.items()]
    return segments(parts, total, label=f"{each.toolchain}: shares of stages")


def _part(stage: str, seconds: float, total: float) -> str:
    return f"{stage}: {duration(seconds)}, {seconds / total if total else 0.0:.0%}"


def _share(each: Spent, stage: str) -> Markup:
    if stage not in each.seconds:
        return el("td", "")
    seconds, total = each.seconds[stage], sum(each.seconds.values())
    return el("td", f"{duration(seconds / each.compiles)}, {seconds / total if total else 0.0:.0%}")


def _cache(facts: Facts) -> Markup:
    if not facts.held:
        return _section("The cache", "", _nothing("The cache is empty."))
    largest = max(held.size for held in facts.held)
    rows = [_row(held.model, _holding(held), _bytes(held, facts.toolchains, largest)) for held in facts.held]
    legend = [(name or "?", _colour(number)) for number, name in enumerate(facts.toolchains)]
    note = "What its libraries take on the disk, by model and toolchain."
    return _section("The cache", note, joined([_legend(legend), el("div", rows, class_="rows")]))


def _holding(held: Held) -> str:
    return f"{_count(held.libraries, 'library', 'libraries')}, {size(held.size)}"


def _bytes(held: Held, toolchains: Sequence[str], largest: int) -> Markup:
    parts = [
        (float(held.bytes[name]), _colour_of(name, toolchains), f"{name}: {size(held.bytes[name])}")
        for name in toolchains
        if name in held.bytes
    ]
    return segments(parts, largest, label=f"{held.model}: {size(held.size)}")


def _failures(facts: Facts) -> Markup:
    if not facts.failures:
        return Markup()
    items = [el("li", _failure(job)) for job in facts.failures]
    return _section("Failures", f"The last {len(items)}, the newest first.", el("ul", items, class_="failures"))


def _failure(job: JobRecord) -> list[Markup]:
    told = el("span", f"{_moment(job.asked)}, key {job.subject.key[:12]}", class_="quiet")
    lines = [el("p", el("bdi", _name(job)), " ", told), el("p", job.ending.cause, class_="cause")]
    if job.ending.log:
        lines.append(el("p", "log: ", el("bdi", job.ending.log), class_="quiet path"))
    return lines


def _footer(facts: Facts) -> Markup:
    held = _count(len(facts.jobs), "compile", "compiles")
    return el("footer", el("p", f"mlc-jitd {__version__}; the history of this cache holds {held}.", class_="quiet"))


def _section(title: str, note: str, inside: Markup) -> Markup:
    return el("section", el("h2", title), el("p", note, class_="quiet") if note else "", inside)


def _nothing(words: str) -> Markup:
    return el("p", words, class_="nothing")


def _row(name: str, more: str, bar: Markup) -> Markup:
    told = more if isinstance(more, Markup) else el("span", more, class_="quiet")
    words = el("div", el("bdi", name, class_="what", title=name), told, class_="words")
    return el("div", words, bar, class_="row")


def _legend(pieces: Iterable[tuple[str, str]]) -> Markup:
    items = [el("li", el("span", class_=f"swatch {kind}"), words) for words, kind in pieces]
    return el("ul", items, class_="legend")


def _colour(number: int) -> str:
    return f"c{min(number, COLOURS - 1) + 1}"


def _colour_of(name: str, names: Sequence[str]) -> str:
    return _colour(names.index(name)) if name in names else "other"


def _name(job: JobRecord) -> str:
    return PurePath(job.subject.model).name or job.subject.key[:12]


def _outcome(job: JobRecord) -> Markup:
    words, kind = OUTCOMES[job.ending.outcome]
    waiters = len(job.waiters) + job.more
    others = f", {waiters} waited" if waiters > 1 else ""
    if job.ending.outcome == "compiled":
        return el("span", f"{duration(_took(job))}{others}", class_="quiet")
    return el("span", el("span", words, class_=kind), others, class_="quiet")


def _title(job: JobRecord) -> str:
    said = f"{_name(job)}, {_moment(job.asked)}: {OUTCOMES[job.ending.outcome][0]} after {duration(_took(job))}"
    return f"{said}. {job.ending.cause}" if job.ending.cause else said


def _took(job: JobRecord) -> float:
    return job.ending.seconds or max(0.0, job.seconds - job.queued)


def _moment(when: float) -> str:
    return time.strftime("%b %d %H:%M", time.localtime(when))


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
