"""Risk: an explanation names what does not differ, hides what does, or speaks in hashes."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mlc_jitd.explain import LEAVES, Asked, Summary, There, differences, explain, nearest, part_words
from mlc_jitd.identity import PART_NAMES, Part
from mlc_jitd.identity.canonical import key_of, part
from mlc_jitd.store import PartRecord

VALUES: dict[str, Any] = {
    "format": 1,
    "model": {
        "model_type": "llama",
        "quantization": "q4f16_1",
        "active_vocab_size": None,
        "config": {"model_type": "llama", "hidden_size": 64, "context_window_size": 4096, "rope": {"theta": 10000.0}},
    },
    "overrides": {},
    "opt": "O2",
    "prefix": None,
    "target": {
        "target": {"kind": "llvm", "mcpu": "skylake", "keys": ["cpu"], "host": {"kind": "llvm", "mcpu": "skylake"}},
        "preset": None,
        "suffix": "so",
        "cpu": "a" * 64,
        "facts": {},
    },
    "toolchain": {
        "name": "mlc_llm",
        "python": {"version": "3.11.7", "implementation": "cpython-311", "platform": "linux x86_64"},
        "startup": {},
        "own": None,
        "packages": {
            "mlc_llm": {"version": "0.20.0", "build": "b" * 64},
            "tvm": {"version": "0.26.0", "build": "c" * 64},
            "flashinfer": None,
        },
        "tools": {"c++": "g++ 12.2.0"},
    },
    "environment": {},
}

NEWER = {"version": "0.27.0", "build": "d" * 64}

CHANGES: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "upgrade": (("toolchain", "packages", "tvm"), NEWER, "compiled with tvm 0.26.0, now 0.27.0"),
    "another build": (("toolchain", "packages", "tvm", "build"), "d" * 64, "another build of tvm 0.26.0"),
    "a package came": (("toolchain", "packages", "flashinfer"), NEWER, "compiled without flashinfer, now with 0.27.0"),
    "a package went": (("toolchain", "packages", "tvm"), None, "compiled with tvm 0.26.0, now without"),
    "python": (("toolchain", "python", "version"), "3.12.1", "compiled under Python 3.11.7, now 3.12.1"),
    "another toolchain": (("toolchain", "name"), "tvm", "compiled by mlc_llm, now by tvm"),
    "linker": (("toolchain", "tools", "c++"), "g++ 13.1.0", "c++: g++ 12.2.0 there, g++ 13.1.0 here"),
    "sitecustomize": (("toolchain", "startup", "sitecustomize"), "f" * 64, "sitecustomize.py is new"),
    "config": (("model", "config", "context_window_size"), 8192, "context_window_size 4096 there, 8192 here"),
    "nested": (("model", "config", "rope", "theta"), 10000, "rope.theta 10000.0 there, 10000 here"),
    "unknown field": (("model", "config", "new"), "x\x1b[31m\n", "new not given there, x [31m  here"),
    "vocabulary": (("model", "active_vocab_size"), 100, "active_vocab_size none there, 100 here"),
    "override": (("overrides", "max_batch_size"), 8, "override max_batch_size not given there, 8 here"),
    "opt": (("opt",), "O3", "opt O2 there, O3 here"),
    "prefix": (("prefix",), "mine_", "system library prefix none there, mine_ here"),
    "target": (("target", "target", "keys"), ["cpu", "avx"], 'target: keys ["cpu"] there, ["cpu", "avx"] here'),
    "cpu": (("target", "cpu"), "0" * 64, "the CPU's instruction set differs"),
    "preset": (("target", "preset"), "android", "target preset none there, android here"),
    "variable": (("environment", "MLC_MULTI_ARCH"), "80,90", "MLC_MULTI_ARCH not given there, 80,90 here"),
    "scheme": (("format",), 2, "the key's scheme 1 there, 2 here"),
}  # fmt: skip


def asked(values: dict[str, Any], *, model: str = "/m", fingerprint: str = "now") -> Asked:
    parts = tuple(part(name, values[name]) for name in PART_NAMES)
    return Asked(parts, model, values["model"]["model_type"], values["model"]["quantization"], fingerprint)


def known(values: dict[str, Any], *, model: str = "/m", created: float = 0.0) -> There:
    what = asked(values, model=model)
    hashes = tuple(each.sha256 for each in what.parts)
    summary = Summary(key_of(what.parts), hashes, model, what.model_type, what.quantization, created)
    records = {each.name: PartRecord(sha256=each.sha256, value=each.value) for each in what.parts}
    return There(summary, records, "mlc_llm 0.20.0", "then")


def changed(path: tuple[str, ...], value: Any, values: dict[str, Any] = VALUES) -> dict[str, Any]:
    found = copy.deepcopy(values)
    at: Any = found
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return found


@pytest.mark.parametrize("what", CHANGES)
def test_one_change_in_words(what: str) -> None:
    path, value, words = CHANGES[what]
    (found,) = differences(asked(changed(path, value)), known(VALUES))
    assert found.part == path[0]
    assert found.words == words


def test_a_target_s_host_is_not_told_again() -> None:
    values = changed(("target", "target", "mcpu"), "znver3")
    values = changed(("target", "target", "host", "mcpu"), "znver3", values)
    (found,) = differences(asked(values), known(VALUES))
    assert found.words == "target: mcpu skylake there, znver3 here"


def test_an_edited_toolchain_names_its_files() -> None:
    values = changed(("toolchain", "packages", "mlc_llm", "build"), "d" * 64)
    values = changed(("toolchain", "packages", "tvm", "build"), "d" * 64, values)
    seen = []

    def edits(before: str, now: str) -> tuple[str, ...]:
        seen.append((before, now))
        return ("/opt/site/mlc_llm/model/llama/llama_model.py",)

    (found,) = differences(asked(values), known(VALUES), edits=edits)
    assert found.words == "the toolchain's file model/llama/llama_model.py was edited"
    assert seen == [("then", "now")]
    many = tuple(f"/site/tvm/{n}.py" for n in range(9))
    (found,) = differences(asked(values), known(VALUES), edits=lambda _before, _now: many)
    assert "site/tvm/4.py and 4 more were edited" in found.words


def test_many_differences_are_bounded_and_counted() -> None:
    values = changed(("model", "config"), {f"field_{n}": n for n in range(50)})
    found = differences(asked(values), known(VALUES))
    assert len(found) == LEAVES + 1
    assert found[-1].words == "model: 49 further differences"
    explanation = explain(asked(values), [(0, known(VALUES))], compared=1)
    assert len(explanation.words) < 1000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=4), each, max_size=3),
    max_leaves=6,
)
PART = st.tuples(st.sampled_from(PART_NAMES), JSON)


@st.composite
def mangled(draw: st.DrawFn) -> dict[str, Any]:
    """The usual values, with whole parts or places in them replaced by anything at all."""
    found = copy.deepcopy(VALUES)
    for _ in range(draw(st.integers(0, 3))):
        at: Any = found
        name: Any = draw(st.sampled_from(PART_NAMES))
        while isinstance(at[name], dict) and at[name] and draw(st.booleans()):
            at, name = at[name], draw(st.sampled_from(sorted(at[name])))
        at[name] = draw(JSON)
    return found


def as_asked(values: dict[str, Any]) -> Asked:
    return Asked(tuple(part(name, values[name]) for name in PART_NAMES), "/m", "llama", "q4f16_1", "now")


def as_known(values: dict[str, Any]) -> There:
    records = {name: PartRecord(sha256=part(name, value).sha256, value=value) for name, value in values.items()}
    return There(Summary("ab" * 32, (), "/m", "llama", "q4f16_1"), records, "mlc_llm", "then")


@settings(max_examples=150, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink))
@given(mangled(), mangled(), st.sets(st.sampled_from(PART_NAMES)), st.sampled_from([None, (), ("/a/b.py",)]))
def test_exactly_the_parts_that_differ_are_named(
    there: dict[str, Any], here: dict[str, Any], lacking: set[str], edited: tuple[str, ...] | None
) -> None:
    entry = as_known({name: value for name, value in there.items() if name not in lacking})
    want = as_asked(here)
    found = differences(want, entry, edits=lambda _before, _now: edited)
    differing = {
        each.name for each in want.parts if (r := entry.parts.get(each.name)) is None or r.sha256 != each.sha256
    }
    assert {each.part for each in found} == differing
    for each in found:
        assert each.words
        assert each.words.isprintable()
        assert len(each.words) < 400
        assert len([other for other in found if other.part == each.part]) <= LEAVES + 1
    for each in want.parts:
        assert part_words(each) is not None


@settings(max_examples=100, deadline=None)
@given(mangled())
def test_an_entry_is_no_reason_against_itself(values: dict[str, Any]) -> None:
    assert differences(as_asked(values), as_known(values)) == ()
    assert explain(as_asked(values), [(0, as_known(values))], compared=1).nearest == ()


# --- which are near ---------------------------------------------------------------------------------------------------


def near_key(want: Asked, *entries: There) -> str:
    found = {each.summary.key: each for each in entries}
    ranked = [(cost, found[summary.key]) for cost, summary in nearest(want, [e.summary for e in entries], 3)]
    return explain(want, ranked, compared=len(entries)).nearest[0].summary.key


def test_the_same_model_under_an_old_toolchain_is_nearer_than_another_model() -> None:
    upgraded = known(changed(*CHANGES["upgrade"][:2]), model="/elsewhere")
    other = known(changed(("model", "config", "hidden_size"), 128), model="/other", created=9)
    assert near_key(asked(VALUES), other, upgraded) == upgraded.summary.key


def test_the_config_before_it_was_edited_is_nearer_than_another_of_its_type() -> None:
    before = known(changed(("model", "config", "context_window_size"), 1), model="/m")
    other = known(changed(("model", "config", "context_window_size"), 2), model="/other", created=9)
    assert near_key(asked(VALUES), other, before) == before.summary.key


def test_of_equally_near_ones_the_values_decide_and_then_the_age() -> None:
    one = known(changed(("overrides",), {"a": 1}), created=1)
    two = known(changed(("overrides",), {"a": 1, "b": 2}), created=9)
    new = known(changed(("overrides",), {"c": 1}), created=5)
    assert near_key(asked(VALUES), one, two, new) == new.summary.key
    assert near_key(asked(VALUES), one, two) == one.summary.key


def test_sentences() -> None:
    want = asked(VALUES)
    assert explain(want, [], compared=0).words == "the cache is empty"
    assert "known yet" in explain(want, [], compared=0, complete=False).words
    gone = explain(want, [(2, known(changed(("opt",), "O3")))], compared=1, formerly=True).words
    assert "collected or removed" in gone
    gpt = changed(("model", "model_type"), "gpt2")
    assert explain(want, [(32, known(gpt))], compared=1).words == (
        "no llama q4f16_1 model is compiled in the one entry there is"
    )
    entry = known(changed(("opt",), "O3"))
    assert explain(want, [(2, entry)], compared=7).words == (
        f"the nearest entry, {entry.summary.key[:12]}, differs: opt O3 there, O2 here"
    )


def test_ten_thousand_entries_take_milliseconds() -> None:
    """The bound is for a busy host; benchmarks/explain.py measures."""
    base = known(VALUES).summary
    many = [
        Summary(f"{n:064x}", (base.hashes[0], f"{n:064x}", *base.hashes[2:]), f"/m{n}", "llama", "q4f16_1", float(n))
        for n in range(10_000)
    ]
    want = asked(changed(("opt",), "O3"))
    best = min(_timed(want, many) for _ in range(5))
    assert best < 0.25


def _timed(want: Asked, many: list[Summary]) -> float:
    began = time.perf_counter()
    assert len(nearest(want, many, 12)) == 12
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model", "llama q4f16_1, hidden_size 64, context_window_size 4096"),
        ("target", "llvm, mcpu skylake"),
        ("toolchain", "mlc_llm 0.20.0, tvm 0.26.0"),
        ("overrides", "none"),
        ("opt", "O2"),
        ("prefix", "none"),
    ],
)
def test_a_part_for_people(name: str, words: str) -> None:
    assert part_words(Part(name, VALUES[name], "")) == words
