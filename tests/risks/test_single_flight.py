"""Risk: one configuration is compiled twice. Many processes ask at once, with a daemon, without, and with both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.daemons import status, until, waiters

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double


@pytest.fixture
def no_daemon(place: Place) -> dict[str, str]:
    """Variables with which no daemon can be started: there is no place for its socket."""
    blocked = place.root / "file"
    blocked.touch()
    return {"MLC_JITD_RUNTIME_DIR": str(blocked / "r")}


@pytest.mark.timeout(60)  # 3 s on two idle cores
def test_forty_processes_one_configuration(daemon: Daemon, double: Double, client: Clients, place: Place) -> None:
    gate = double.gate()
    model = double.model(told={"wait_for": gate})
    fleet = client.fleet([model] * 40)
    until(lambda: waiters() == 40, limit=45)
    gate.touch()
    answers = fleet.answer(50)
    assert {each["result"] for each in answers} == {str(path) for path in place.artifacts()}
    assert len(place.artifacts()) == len(double.starts()) == 1
    counters = status().counters
    assert (counters["compiles"], counters["joins"], counters["hits"]) == (1, 39, 0)
    ended = [each["ended"] for each in answers]
    assert max(ended) - min(ended) < 3, "for a busy host; benchmarks/storm.py measures"


def test_sixteen_processes_four_configurations(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients, place: Place
) -> None:
    start_daemon(MLC_JITD_JOBS="4", MLC_JITD_CORES_PER_JOB="1")
    models = [double.model(f"m{n}", told={"sleep": 0.1}, vocab_size=100 + n) for n in range(4)]
    paths = client.fleet(models * 4).paths()
    assert len(set(paths)) == len(place.artifacts()) == 4
    assert paths == paths[:4] * 4
    assert len(double.starts()) == 4


@pytest.mark.parametrize("configurations", [1, 4])
def test_sixteen_processes_without_a_daemon(
    configurations: int, no_daemon: dict[str, str], double: Double, client: Clients, place: Place
) -> None:
    models = [double.model(f"m{n}", told={"sleep": 0.3}, vocab_size=100 + n) for n in range(configurations)]
    paths = client.fleet(models * (16 // configurations), **no_daemon).paths()
    assert len(set(paths)) == len(place.artifacts()) == configurations
    assert paths == paths[:configurations] * (16 // configurations)
    assert len(double.starts()) == configurations
    assert place.daemons() == []


def test_redo_by_several_without_a_daemon_never_overlaps(
    no_daemon: dict[str, str], double: Double, client: Clients
) -> None:
    model = double.model(told={"sleep": 0.2})
    paths = client.fleet([model] * 4, **no_daemon, MLC_JIT_POLICY="REDO").paths()
    assert len(set(paths)) == 1  # equal content
    assert 1 <= len(double.starts()) <= 4
    assert not double.overlaps()


def test_one_without_a_daemon_waits_for_the_daemons_compile(
    daemon: Daemon, no_daemon: dict[str, str], double: Double, client: Clients
) -> None:
    gate = double.gate()
    model = double.model(told={"wait_for": gate})
    with_daemon = client.ask(model)
    until(double.starts)
    without = client.code(
        """
        from mlc_jit import api
        def say(progress):
            if progress.stage == "locked":
                open(given["seen"], "w").write(progress.detail)
        ask = api.make_request(given["model"], {}, "cpu", None, policy="ON")
        print(json.dumps(answer(lambda: [(r := api.ask(ask, on_progress=say)).path, r.source])))
        """.replace("\n        ", "\n"),
        no_daemon,
        model=model,
        seen=double.folder / "seen",
    )
    until((double.folder / "seen").exists)
    gate.touch()
    assert without.answer()["result"] == [with_daemon.path(), "joined"]
    assert len(double.starts()) == 1


def test_the_daemon_waits_for_a_compile_of_one_without(
    daemon: Daemon, no_daemon: dict[str, str], double: Double, client: Clients
) -> None:
    gate = double.gate()
    model = double.model(told={"wait_for": gate})
    without = client.ask(model, **no_daemon)
    until(double.starts)
    with_daemon = client.ask(model)
    until(lambda: [job.stage for job in status().jobs] == ["locked"])
    gate.touch()
    assert with_daemon.path() == without.path()
    assert len(double.starts()) == 1
