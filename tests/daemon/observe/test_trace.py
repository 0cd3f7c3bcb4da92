"""The trace is of the form that its viewers take: known phases, whole times, slices that nest, arrows with two ends."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlc_jitd.observe.history import Counts
from mlc_jitd.observe.record import Ending, Kernels, Record, Subject, Who
from mlc_jitd.observe.trace import COMPILES, QUEUE, trace

METADATA = {"process_name": "name", "process_sort_index": "sort_index", "thread_name": "name",
            "thread_sort_index": "sort_index"}  # fmt: skip


def check(made: dict[str, Any]) -> list[dict[str, Any]]:
    """Assert the format; the events that are no metadata."""
    made = json.loads(json.dumps(made))
    assert set(made) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert made["displayTimeUnit"] in ("ms", "ns")
    slices = defaultdict(list)
    arrows: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    named = set()
    for event in made["traceEvents"]:
        assert isinstance(event["name"], str)
        assert event["name"]
        assert all(type(event[field]) is int for field in ("pid", "tid", "ts")), event
        match event["ph"]:
            case "M":
                assert set(event["args"]) == {METADATA[event["name"]]}
                named.add((event["pid"], event["tid"]))
            case "X":
                assert type(event["dur"]) is int
                assert event["dur"] > 0, "viewers nest slices without length wrongly"
                assert isinstance(event["args"], dict)
                assert event["cat"]
                slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
            case "i":
                assert event["s"] == "t"
                assert (event["pid"], event["tid"]) in named
            case "C":
                assert all(type(value) is int and value >= 0 for value in event["args"].values()), event
                assert event["args"]
            case "s" | "f":
                ends = arrows[event["cat"], event["name"], event["id"]]
                assert event["ph"] not in ends, "one beginning and one end"
                ends[event["ph"]] = event
                assert (event["ph"] == "f") == (event.get("bp") == "e")
            case other:
                raise AssertionError(other)
    for place, each in slices.items():
        assert place in named, "every thread has a name"
        assert nests(each), (place, each)
    for ends in arrows.values():
        assert ends["s"]["ts"] <= ends["f"]["ts"], "arrows lead forward"
        for end in ends.values():
            covering = slices[end["pid"], end["tid"]]
            assert any(begin <= end["ts"] < stop for begin, stop in covering), "an arrow begins and ends at a slice"
    return [event for event in made["traceEvents"] if event["ph"] != "M"]


def nests(slices: list[tuple[int, int]]) -> bool:
    """Whether each pair of slices is apart, or one in the other."""
    open_: list[int] = []
    for begin, end in sorted(slices, key=lambda each: (each[0], -each[1])):
        while open_ and open_[-1] <= begin:
            open_.pop()
        if open_ and end > open_[-1]:
            return False
        open_.append(end)
    return True


times = st.floats(0, 500, allow_nan=False)


@st.composite
def records(draw: st.DrawFn) -> list[Any]:
    """Jobs as they come to be, under way or ended, with any texts in them."""
    found = []
    for number in range(draw(st.integers(0, 6))):
        record = Record()
        key = f"{number:064x}"
        now = draw(times)
        record.enqueued(Subject(key=key, model=draw(st.text())), now=now, unix=1.7e9 + now, background=False)
        steps = draw(st.lists(st.tuples(times, st.sampled_from("jlsxrq"), st.integers(0, 3)), max_size=12))
        for gap, what, which in steps:
            now += gap
            match what:
                case "j":
                    record.joined(key, (b"c", which), Who(pid=which, program="serve"), now=now)
                case "l":
                    record.left((b"c", which), now=now)
                case "s":
                    record.started(key, cores=1, now=now)
                case "r":
                    record.requeued(key, "again", tried=True, now=now)
                case _:
                    record.entered(key, f"stage {which}", "detail", now=now)
        now += draw(times)
        ending = Ending(outcome="compiled", kernels=Kernels(total=3, reused=1, saved=2.5))
        ended = record.finished(key, ending, now=now) if draw(st.booleans()) else None
        found += [ended] if ended is not None else list(record.jobs(now))
    return found


@given(records(), st.lists(st.tuples(times, st.dictionaries(st.sampled_from(["hit", "joined", "x"]), st.integers(0)))))
def test_whatever_happened_makes_a_trace_of_the_right_form(jobs, counts):
    spans = [Counts(begin=1.7e9, end=1.7e9 + after, counts=each) for after, each in counts]
    check(trace(jobs, spans))


def test_two_jobs_on_one_host():
    record = Record()
    for number, name in enumerate(("llama", "qwen")):
        record.enqueued(Subject(key=name, model=f"/m/{name}", device="cuda:0"), now=0.0, unix=100.0, background=False)
        record.joined(name, (b"c", number), Who(pid=number, program="serve.py"), now=0.0)
    record.started("llama", cores=2, now=0.0)
    record.entered("llama", "codegen", "49 kernels", now=1.5)
    first = record.finished("llama", Ending(outcome="compiled", size=9), now=4.0)
    record.started("qwen", cores=2, now=4.0)
    second = record.finished("qwen", Ending(outcome="failed", cause="no"), now=5.0)
    events = check(trace([first, second], [Counts(begin=90, end=300, counts={"hit": 7})], about={"version": "1"}))
    slices = [(e["pid"], e["tid"], e["ts"], e["dur"], e["name"]) for e in events if e["ph"] == "X" and e["pid"] != 3]
    assert slices == [
        (COMPILES, 1, 100_000_000, 4_000_000, "llama (cuda:0)"),
        (COMPILES, 1, 100_000_000, 1_500_000, "start"),
        (COMPILES, 1, 101_500_000, 2_500_000, "codegen"),
        (QUEUE, 1, 100_000_000, 4_000_000, "qwen (cuda:0)"),
        (COMPILES, 1, 104_000_000, 1_000_000, "qwen (cuda:0)"),  # the first one's lane is free
        (COMPILES, 1, 104_000_000, 1_000_000, "start"),
    ]
    failed = next(e for e in events if e.get("args", {}).get("outcome") == "failed" and e["cat"] == "job")
    assert failed["args"]["cause"] == "no"
    loads = [(e["ts"], e["args"]) for e in events if e["ph"] == "C" and e["name"] == "jobs"]
    assert loads == [
        (100_000_000, {"running": 1, "queued": 1}),
        (104_000_000, {"running": 1, "queued": 0}),
        (105_000_000, {"running": 0, "queued": 0}),
    ]
    assert [e["args"]["hit"] for e in events if e["name"] == "answers"] == [7]


def test_nothing_that_happened_is_a_trace_too():
    assert check(trace([])) == []
