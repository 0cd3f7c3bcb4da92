"""The figures of benchmarks as one picture.

    python benchmarks/hit.py --json > hit.json; python benchmarks/throughput.py --json > throughput.json; …
    python benchmarks/plot.py hit.json throughput.json … -o benchmarks.svg

Takes what `hit.py`, `throughput.py`, `storm.py`, `busy.py` and `stampede.py` print with `--json`, a panel each, in the
order given. An SVG by hand: a handful of bars is no reason for a plotting library.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, LABEL, VALUE = 720, 210, 90
BAR, GAP, BETWEEN, HEAD, MARGIN = 16, 4, 12, 46, 24
COLOURS = {"theirs": "#9aa5b1", "ours": "#2563a8"}


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure: `ours` or `theirs`, its length, and what is written behind it."""

    whose: str
    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """The figures of one benchmark; groups are drawn to one scale, or each to its own where they are ``apart``."""

    title: str
    note: str
    groups: tuple[tuple[str, tuple[Bar, ...]], ...]
    apart: bool = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+", metavar="JSON")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks.svg"))
    arguments = parser.parse_args()
    panels = []
    for path in arguments.reports:
        report = json.loads(path.read_text())
        reader = next((reader for known, reader in READERS if known(report)), None)
        if reader is None:
            raise SystemExit(f"{path} is no report of a benchmark that can be drawn")
        panels.append(reader(report))
    arguments.output.write_text(draw(panels))
    return 0


def hit(report: dict[str, Any]) -> Panel:
    names = {"raw": "Unix socket", "ping": "ZeroMQ ping-pong", "hit": "jit()", "upstream": "upstream's jit()"}
    groups = [
        (
            f"{names[name]}, {what}",
            (Bar("ours" if name == "hit" else "theirs", found[what], _us(found[what])),),
        )
        for what in ("p50", "p99")
        for name, found in report["us"].items()
    ]
    return Panel("A hit, one client", f"{report['entries']:,} entries; time per round trip", tuple(groups))


def throughput(report: list[dict[str, Any]]) -> Panel:
    groups = [
        (
            f"{row['clients']} client{'s'[: row['clients'] != 1]}",
            (
                Bar("theirs", row["bare"], f"{row['bare']:,}/s"),
                Bar("ours", row["hits"], f"{row['hits']:,}/s, {row['ratio']}x"),
            ),
        )
        for row in report
    ]
    return Panel("Hits per second", "grey: the same clients on a bare ROUTER", tuple(groups))


def storm(report: dict[str, Any]) -> Panel:
    start, hits = report["start_ms"], report["hits_s"]
    count, miss = report["processes"], report["miss"]
    groups = (
        ("one process, start to path", _pair(start["bare"] / 1e3, start["jit"] / 1e3)),
        (f"{count} processes at once", _pair(hits["bare"], hits["jit"])),
    )
    late = f"the last answer {miss['last_after_first_ms']:.0f} ms after the first"
    note = f"grey: a bare round trip. {count} on one miss: {miss['compiles']} compile, {late}"
    return Panel("Whole processes", note, groups, apart=True)


def busy(report: dict[str, Any]) -> Panel:
    quiet, loaded, ratio = report["quiet_us"], report["busy_us"], report["ratio"]
    groups = tuple(
        (
            f"hit, {what}",
            (
                Bar("theirs", quiet[what], _us(quiet[what])),
                Bar("ours", loaded[what], f"{_us(loaded[what])}, {ratio[what]:.2f}x"),
            ),
        )
        for what in ("p50", "p99")
    )
    return Panel("Hits while two compiles run and a collection is under way", "grey: the daemon is quiet", groups)


def stampede(report: dict[str, Any]) -> Panel:
    groups = tuple(
        (f"{each['count']} processes, {label}", _pair(each["upstream"][what], each["daemon"][what]))
        for each in report["processes"]
        for what, label in (("wall_s", "wall"), ("cpu_s", "processor"))
    )
    return Panel("A stampede on one library that is not there", "grey: upstream's jit() in each process", groups)


READERS: tuple[tuple[Any, Any], ...] = (
    (lambda report: isinstance(report, list), throughput),
    (lambda report: "us" in report, hit),
    (lambda report: "start_ms" in report, storm),
    (lambda report: "busy_us" in report, busy),
    (lambda report: isinstance(report.get("processes"), list), stampede),
)


def _us(value: float) -> str:
    return f"{value:.0f} us" if value < 1e4 else f"{value / 1e3:.0f} ms"


def _pair(theirs: float, ours: float) -> tuple[Bar, Bar]:
    def text(seconds: float) -> str:
        return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"

    return Bar("theirs", theirs, text(theirs)), Bar("ours", ours, f"{text(ours)}, {ours / theirs:.2f}x")


def draw(panels: list[Panel]) -> str:
    top, body = MARGIN, []
    for panel in panels:
        lines = list(_panel(panel, top))
        body += lines
        top += HEAD + sum(len(bars) * (BAR + GAP) + BETWEEN for _, bars in panel.groups) + MARGIN
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{top}" fill="white"/>',
            *body,
            "</svg>\n",
        ]
    )


def _panel(panel: Panel, top: float) -> Iterator[str]:
    yield _text(MARGIN, top + 12, panel.title, 'font-size="15" font-weight="bold"')
    yield _text(MARGIN, top + 30, panel.note, 'fill="#555"')
    top += HEAD
    everything = [bar.value for _, bars in panel.groups for bar in bars]
    for label, bars in panel.groups:
        most = max(bar.value for bar in bars) if panel.apart else max(everything)
        scale = (WIDTH - 2 * MARGIN - LABEL - VALUE) / most
        yield _text(MARGIN + LABEL - 8, top + 12, label, 'text-anchor="end"')
        for bar in bars:
            width = max(1.0, bar.value * scale)
            colour = COLOURS[bar.whose]
            yield f'<rect x="{MARGIN + LABEL}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'
            yield _text(MARGIN + LABEL + width + 6, top + 12, bar.text)
            top += BAR + GAP
        top += BETWEEN


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


if __name__ == "__main__":
    sys.exit(main())
