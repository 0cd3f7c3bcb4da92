"""docs/scheduling.md says what described hosts admit; this reads the table and holds the code to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jitd.schedule.capacity import reader
from mlc_jitd.schedule.fit import slots
from mlc_jitd.schedule.host import GIB, Gpu
from mlc_jitd.schedule.jobs import Accepted, Admission, Demand, Refused, Settings
from mlc_jitd.schedule.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = Path(__file__).parents[3] / "docs" / "scheduling.md"
COLUMNS = ("CPUs", "memory", "cgroup", "GPUs", "slots", "asked", "starts", "waits", "refused", "after 30 s")


def rows() -> Iterator[dict[str, str]]:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert tuple(cells[0]) == COLUMNS
    for row in cells[2:]:
        yield dict(zip(COLUMNS, row, strict=True))


def names(text: str) -> list[str]:
    """`a b@0 j1..j3` as single names."""
    found = []
    for word in text.split():
        span = re.fullmatch(r"([a-z]+)(\d+)\.\.\1(\d+)", word)
        found += [f"{span[1]}{n}" for n in range(int(span[2]), int(span[3]) + 1)] if span else [word]
    return found


def with_reason(text: str) -> dict[str, str]:
    return {name: reason for group, reason in re.findall(r"([^()]+)\(([a-z-]+)\)", text) for name in names(group)}


def started(text: str) -> dict[str, tuple[str | None, str | None]]:
    """`a@1 b short of gpu` as name -> device, what it is short of."""
    names_part, _, short = text.partition(" short of ")
    split = (name.partition("@") for name in names(names_part))
    return {name: (device or None, short or None) for name, _, device in split}


def demands(text: str) -> Iterator[Demand]:
    number = 0
    for part in text.split(";"):
        who, need, *flags = part.split()
        gpu = next((flag for flag in flags if flag.startswith("gpu")), None)
        for name in names(who):
            number += 1
            yield Demand(
                job=name,
                client=f"client {name}",
                user=1000,
                submitted=float(number),
                memory=None if need == "?" else int(float(need) * GIB),
                interactive="prewarm" not in flags,
                exclusive="alone" in flags,
                gpu=gpu is not None,
                gpu_memory=int(float(gpu[4:]) * GIB) if gpu and ":" in gpu else None,
            )


def gpus(text: str) -> tuple[Gpu, ...]:
    pairs = [each.split("/") for each in text.split()]
    return tuple(
        Gpu(index=n, uuid=str(n), model="test", memory_total=int(float(t) * GIB), memory_free=int(float(f) * GIB))
        for n, (f, t) in enumerate(pairs)
    )


def outcome(admission: Admission) -> dict[str, tuple[str | None, str | None]]:
    return {g.job: (g.device, " and ".join(g.short) or None) for g in admission.granted}


@pytest.mark.parametrize("row", [pytest.param(row, id=f"row{n}") for n, row in enumerate(rows(), 1)])
def test_the_documented_host_admits_what_the_document_says(
    row: dict[str, str], tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    total, free = re.findall(r"[\d.]+", row["memory"])
    tree.host(cpus=f"0-{int(row['CPUs']) - 1}", total=float(total), free=float(free))
    group: dict[str, str | int] = {"cpu.max": "max 100000", "memory.max": "max"}
    if quota := re.search(r"([\d.]+) cores", row["cgroup"]):
        group["cpu.max"] = f"{int(float(quota[1]) * 100_000)} 100000"
    if limit := re.search(r"([\d.]+) GiB, ([\d.]+) used", row["cgroup"]):
        group |= {"memory.max": int(float(limit[1]) * GIB), "memory.current": int(float(limit[2]) * GIB)}
    tree.v2("/pod/own", {"pod": group})
    monkeypatch.setattr(reader.devices, "gpus", lambda **_: (gpus(row["GPUs"]), ()))
    capacity = reader.read(tree.root)
    got = slots(capacity, Settings())
    assert f"{got.jobs} x {got.cores}" == row["slots"]

    queue = Queue()
    answers = [queue.submit(demand, capacity) for demand in demands(row["asked"])]
    assert all(isinstance(answer, (Accepted, Refused)) for answer in answers)
    assert {a.job: a.reason for a in answers if isinstance(a, Refused)} == with_reason(row["refused"])

    first = queue.admit(capacity, 0.0)
    queue.validate()
    assert outcome(first) == started(row["starts"])
    assert {w.demand.job: w.blocked for w in queue.snapshot(0.0).waiting} == with_reason(row["waits"])
    assert all(grant.cores == got.cores for grant in first.granted)

    queue.admit(capacity, 29.0)
    assert outcome(queue.admit(capacity, 30.0)) == started(row["after 30 s"])
    queue.validate()
