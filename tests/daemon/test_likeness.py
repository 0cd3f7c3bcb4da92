"""What is expected of a compile comes from compiles like it: the same way, and with the cores counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mlc_jitd.likeness import MARGIN, MOST_CORES, Expectation, Likeness
from mlc_jitd.store import About, CompileRecord, KernelRecord, Manifest, ModelRecord, PartRecord, ToolchainRecord

GIB = 1 << 30


def manifest(key: str = "a", *, model: str = "m", seconds: float = 60, created: float = 1, **compiled: Any) -> Manifest:
    about = About(
        suffix="so",
        toolchain=ToolchainRecord(name="mlc_llm", fingerprint="f", interpreter="/python"),
        parts={"model": PartRecord(sha256=model, value={})},
        model=ModelRecord(type="llama", quantization="q4f16_1"),
        compile=CompileRecord(seconds=seconds, **compiled),
    )
    return Manifest.describe(about, key=key * 64, sha256="c" * 64, size=7, created=created, version="0.1.0")


def identity(key: str = "a", *, model: str = "m", quantization: str = "q4f16_1") -> Any:
    return SimpleNamespace(
        key=key * 64,
        parts=(SimpleNamespace(name="model", sha256=model),),
        toolchain=SimpleNamespace(name="mlc_llm"),
        model_type="llama",
        quantization=quantization,
    )


def plain(peak: int, cores: int = 2, **more: Any) -> Manifest:
    return manifest(peak_memory=peak, cores=cores, **more)


def apart(peak: int, cores: int = 2, way: str = "kernels", **more: Any) -> Manifest:
    return manifest(peak_memory=peak, cores=cores, kernels=KernelRecord(way=way), **more)


def test_nothing_is_known_of_a_kind_never_seen() -> None:
    likeness = Likeness()
    likeness.learn(plain(GIB))
    assert likeness.of(identity("b", model="n", quantization="q0f32")) == Expectation()


def test_the_nearest_kin_is_asked_and_the_newest_time_and_the_largest_memory_count() -> None:
    likeness = Likeness()
    likeness.learn_all(
        [
            plain(GIB, seconds=50, created=2),
            plain(2 * GIB, seconds=70, created=1),
            plain(8 * GIB, key="b", model="n", seconds=90, created=3),
        ]
    )
    assert likeness.of(identity("c")) == Expectation(50, int(2 * GIB * MARGIN))
    assert likeness.of(identity("c", model="o")).memory == int(8 * GIB * MARGIN)


@pytest.mark.parametrize("asked", [True, False])
def test_memory_is_learnt_from_the_same_way_only_and_time_from_the_other_where_there_is_no_better(asked: bool) -> None:
    likeness = Likeness()
    other, same = (plain, apart) if asked else (apart, plain)
    likeness.learn(other(GIB, seconds=60))
    assert likeness.of(identity(), apart=asked, cores=2) == Expectation(60, None)
    likeness.learn(same(3 * GIB, seconds=20, key="b"))
    likeness.learn(other(GIB, seconds=61))
    assert likeness.of(identity(), apart=asked, cores=2) == Expectation(20, int(3 * GIB * MARGIN))
    assert likeness.of(identity(), apart=not asked, cores=2) == Expectation(61, int(GIB * MARGIN))


def test_kernels_apart_take_more_memory_with_more_cores() -> None:
    likeness = Likeness()
    likeness.learn(apart(2 * GIB, 2))
    of = [likeness.of(identity(), apart=True, cores=cores).memory for cores in (1, 2, 3, 8)]
    assert of == [int(times * GIB * MARGIN) for times in (2, 2, 3, 8)]
    likeness.learn(apart(5 * GIB, 8))
    of = [likeness.of(identity(), apart=True, cores=cores).memory for cores in (2, 3, 8, 16)]
    assert of == [int(times * GIB * MARGIN) for times in (2, 3, 5, 10)]


def test_the_compilers_own_code_generation_does_not_go_by_cores() -> None:
    likeness = Likeness()
    likeness.learn(plain(2 * GIB, 1))
    assert likeness.of(identity(), cores=8).memory == int(2 * GIB * MARGIN)


def test_what_was_tried_apart_and_stepped_back_from_will_be_again() -> None:
    likeness = Likeness()
    likeness.learn(apart(2 * GIB, way="plain"))
    assert likeness.of(identity(), apart=True, cores=2).memory == int(2 * GIB * MARGIN)
    assert likeness.of(identity(), apart=False, cores=2).memory is None


def test_what_says_nothing_teaches_nothing() -> None:
    likeness = Likeness()
    likeness.learn(apart(GIB, seconds=0))
    assert likeness.of(identity(), apart=True) == Expectation()
    likeness.learn(apart(0))
    assert likeness.of(identity(), apart=True) == Expectation(60, None)
    for cores in range(MOST_CORES + 10):
        likeness.learn(apart(GIB, cores))
    assert likeness.of(identity(), apart=True, cores=MOST_CORES + 9).memory is not None
