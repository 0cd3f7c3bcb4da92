"""The page shows what there is, runs nothing, loads nothing, and fits its window, whatever the texts in it are."""

from __future__ import annotations

import dataclasses
import struct
from collections import Counter
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import browser
from mlc_jitd.observe.record import Ending, JobRecord, Kernels, Record, Subject, Who
from mlc_jitd.observe.report import Entry, facts, page
from mlc_jitd.observe.report.charts import nice, nice_seconds
from mlc_jitd.observe.report.markup import el

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

NOW = 1_795_000_000.0
HOUR = int(NOW) // 3600 * 3600
HOSTILE = (
    '</style></title><script>document.title="owned"</script><img src=x onerror="document.title=1"> & \'"\u202e\x00\x1b'
)
KNOWN = """
    html head meta title style body header h1 h2 p bdi main section div ul li span svg rect circle line text
    table thead tbody caption tr th td footer
"""
VOID = {"meta"}


class Reader(HTMLParser):
    """The elements of a page, nested as they ought to be, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    def said(self) -> str:
        return " ".join(self.texts)


def read(text: str) -> Reader:
    """Parse a page and assert what holds for every one."""
    found = Reader(text)
    assert {tag for tag, _ in found.elements} <= set(KNOWN.split())
    for tag, attributes in found.elements:
        assert not any(name.startswith("on") or name in ("href", "src", "style") for name in attributes), (
            tag,
            attributes,
        )
    policy = next(each["content"] for tag, each in found.elements if each.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "url(" not in text
    assert "@import" not in text
    for tag, attributes in found.elements:
        if tag == "rect":
            assert 0 <= float(str(attributes["x"]).removesuffix("%")) <= 100.01
            assert 0 <= float(str(attributes["width"]).removesuffix("%")) <= 100.01
            assert float(str(attributes["height"])) >= 0
    return found


def job(number: int = 0, text: str = "", **ending: Any) -> JobRecord:
    """A compile that waited 5 s, ran 20 s and ended somehow."""
    record, key = Record(), f"{number:064x}"
    subject = Subject(key=key, model=f"/models/{text or f'model-{number}'}", device="cuda:0", toolchain=text or "tvm 1")
    record.enqueued(subject, now=0.0, unix=NOW - 9000 + 60 * number, background=False)
    record.joined(key, (b"x", 1), Who(pid=1, program=text), now=0.0)
    record.started(key, cores=1, now=5.0)
    record.entered(key, text or "codegen", text, now=10.0)
    made = record.finished(key, Ending(**({"outcome": "compiled", "seconds": 20.0} | ending)), now=25.0)
    assert made is not None
    return made


def whole(text: str = "") -> str:
    """A page with everything on it."""
    jobs = [job(number, text) for number in range(5)]
    jobs.append(job(5, text, outcome="failed", cause=text or "ValueError: no", log=text or "/log", seconds=0.0))
    jobs.append(job(6, text, outcome="cancelled", seconds=0.0))
    jobs[0] = dataclasses.replace(jobs[0], ending=Ending(outcome="compiled", kernels=Kernels(total=9, saved=70.0)))
    counts = Counter({"hit": 70, "joined": 20, "compiled": 10, "misses_absent": 30, f"refused_{text or 'exit-1'}": 2})
    entries = [Entry(model=f"/m/{text or number}", toolchain=text or "tvm 1", size=1000) for number in range(20)]
    return page(facts(jobs, {HOUR: counts}, entries, title=text or "/home/me on host", now=NOW))


EVERYTHING = (
    "90.0%", "1 failed", "1 min 10 s", "20.0 kB", "20 libraries", "6 others", "model-4", "ValueError: no", "codegen",
    "absent", "exit-1", "Compiles over time", "Hits and misses", "Where compile time goes", "tvm 1", "/log",
)  # fmt: skip


def test_everything_is_said():
    said = read(whole()).said()
    for words in EVERYTHING:
        assert words in said, words


def test_an_empty_cache_has_a_page_too():
    said = read(page(facts([], {}, [], title="/home/me", now=NOW))).said()
    assert "Nothing has been compiled here yet." in said
    assert "The cache is empty." in said
    assert "none yet" in said


def test_hostile_text_is_only_text():
    found = read(whole(HOSTILE))
    assert found.said().count("<script>") > 5
    assert all(letter.isprintable() or letter == "\n" for letter in "".join(found.texts))


@given(st.text())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_texts_are_the_page_is_whole(text):
    read(whole(text))


def test_attributes_are_escaped():
    assert el("p", "<&", title="\"'<>\n") == '<p title="&quot;&#x27;&lt;&gt;\n">&lt;&amp;</p>'


@given(st.floats(1e-6, 1e7))
def test_a_scale_reaches_over_what_it_shows(most):
    assert most <= nice_seconds(most) <= max(0.1, 2.5 * most)
    count = int(most) + 1
    assert count <= nice(count) <= max(2, 2.2 * count)
    assert nice(count) % 2 == 0


def test_answers_have_no_gaps_and_no_end_of_columns():
    few = facts([], {HOUR - 3600 * 30: Counter(hit=1), HOUR: Counter(hit=2)}, [], title="", now=NOW)
    assert few.span == 3600
    assert [each.begin for each in few.answers] == list(range(HOUR - 3600 * 30, HOUR + 1, 3600))
    assert len(facts([], {HOUR: Counter(hit=2)}, [], title="", now=NOW).answers) == 24
    many = facts([], {HOUR - 3600 * 24 * day: Counter(hit=day) for day in range(500)}, [], title="", now=NOW)
    assert (many.span, len(many.answers)) == (86400, 120)
    assert sum(each.counts["hit"] for each in many.answers) == sum(range(120))


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture
def chrome(place: Place) -> Iterator[browser.Browser]:
    if browser.found() is None:
        pytest.skip("no browser here: install chromium, or name one in MLC_JITD_TEST_BROWSER")
    found = browser.Browser(place.folder("chrome"))
    yield found
    found.close()


@pytest.mark.timeout(90)
def test_a_browser_shows_it_at_every_width_light_and_dark(chrome: browser.Browser, tmp_path: Path):
    papers = set()
    for name, text in (("plain", whole()), ("hostile", whole(HOSTILE))):
        file = tmp_path / f"{name}.html"
        file.write_text(text)
        for width in (360, 800, 1600):
            for dark in (False, True):
                chrome.open(file, width=width, dark=dark)
                assert chrome.value("document.documentElement.scrollWidth") <= width, "nothing sticks out"
                assert chrome.value("document.scripts.length + document.images.length") == 0
                assert "owned" not in chrome.value("document.title").split(":")[0]
                assert chrome.value(_HIDDEN) == [], "no text lies over another"
                papers.add((dark, chrome.value("getComputedStyle(document.body).backgroundColor")))
        assert _size(chrome.picture())[0] == 1600
    assert len(papers) == 2, "light and dark differ"
    urls = {each["params"]["request"]["url"] for each in chrome.heard if each["method"] == "Network.requestWillBeSent"}
    assert urls == {(tmp_path / f"{name}.html").as_uri() for name in ("plain", "hostile")}
    loud = [each for each in chrome.heard if each["method"] in ("Runtime.consoleAPICalled", "Log.entryAdded")]
    assert loud == []


_HIDDEN = """(() => {
  const found = [];
  for (const plot of document.querySelectorAll('svg.plot')) {
    const boxes = [...plot.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    for (const [i, [one, a]] of boxes.entries())
      for (const [two, b] of boxes.slice(i + 1))
        if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) found.push(one + '/' + two);
  }
  return found;
})()"""


def _size(png: bytes) -> tuple[int, int]:
    width, height = struct.unpack(">II", png[16:24])
    return width, height


# --- the verbs ------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
def test_history_trace_and_report_of_a_real_cache(
    daemon: Daemon, double: Double, client: Clients, mlc_jit: Callable[..., Any], place: Place
):
    client.ask(double.model("good & <fine>")).path()
    client.ask(double.model("bad", told={"raise": "no <b>way</b>"}, vocab_size=7)).error()
    daemon.stop()  # none is needed from here on
    out = place.root / "out.html"
    done = mlc_jit("report", "-o", out)
    assert (done.returncode, done.stdout) == (0, f"{out}\n")
    said = read(out.read_text()).said()
    assert "good & <fine>" in said
    assert "no <b>way</b>" in said
    assert "mlc_llm" in said
    done = mlc_jit("history", "--failed")
    assert "no <b>way</b>" in done.stdout
    assert "good" not in done.stdout
    assert place.daemons() == []
