"""Risk: a daemon that ends because nobody wants it takes somebody's request along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.daemons import status, until
from harness.releases import LISTENING
from mlc_jit import channel, jit
from mlc_jitd.idle import Idle

if TYPE_CHECKING:
    from harness.daemons import Clients, Place
    from harness.doubles import Double

NOW_AND_THEN = (
    LISTENING
    + """
import random
import mlc_jit.channel
random.seed(given["seed"])
paths, slowest = set(), 0.0
for _ in range(6):
    time.sleep(2.2 - time.time() % 2.2 + random.random() * 0.3)  # together, about when an idle daemon ends
    began = time.monotonic()
    paths.add(jit(given["model"], {}, "cpu").model_lib_path)
    mlc_jit.channel.forget()  # who stays connected keeps it
    slowest = max(slowest, time.monotonic() - began)
print(json.dumps({"paths": sorted(paths), "said": said, "slowest": slowest}))
"""
)


def test_an_autostarted_daemon_ends_when_idle_and_the_next_request_starts_one(
    double: Double, place: Place, ended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_JITD_IDLE_SECONDS", "0.5")
    model = double.model()
    path = jit(model, {}, "cpu").model_lib_path
    pid = status().pid
    uptime = status().uptime
    until(lambda: status().uptime > uptime + 2.5, what="it to stay while this thread is connected")
    assert status().pid == pid
    channel.forget()
    until(lambda: not place.daemons(), what="its end")
    assert list(place.runtime.glob("*.sock")) == []
    assert jit(model, {}, "cpu").model_lib_path == path
    assert status().pid != pid


@pytest.mark.timeout(60)
def test_who_comes_as_it_ends_is_served(double: Double, client: Clients, place: Place) -> None:
    model = double.model()
    asking = [
        client.code(NOW_AND_THEN, {"MLC_JITD_IDLE_SECONDS": "0.001"}, model=model, seed=seed) for seed in range(3)
    ]
    said = [each.answer(50) for each in asking]
    assert len({path for each in said for path in each["paths"]}) == 1
    assert [each["said"] for each in said] == [[], [], []], "nobody had to go on without a daemon"
    assert len(double.starts()) == 1
    ends = sum(log.read_text().count("nobody has wanted anything") for log in place.runtime.glob("*.log"))
    assert ends > 0, "or this shows nothing"


def test_a_compile_is_no_idleness(
    double: Double, client: Clients, place: Place, ended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_JITD_IDLE_SECONDS", "0.001")
    gate = double.gate()
    waiting = client.ask(double.model(told={"wait_for": gate}))
    until(double.starts)
    uptime = status().uptime
    until(lambda: status().uptime > uptime + 2.5)
    gate.touch()
    assert Path(waiting.path()).is_file()


def test_when_it_is_due() -> None:
    idle = Idle(True, 10.0)
    assert [idle.due(now, messages=5, busy=False) for now in (0.0, 9.0, 10.0)] == [False, False, True]
    assert not idle.due(11.0, messages=6, busy=False), "somebody asked"
    assert not idle.due(22.0, messages=6, busy=True)
    assert not idle.due(31.0, messages=6, busy=False)
    assert idle.due(32.0, messages=6, busy=False)
    assert [Idle(True, 0.0).due(now, messages=0, busy=False) for now in (0.0, 1e9)] == [False, False]
    assert [Idle(False, 10.0).due(now, messages=0, busy=False) for now in (0.0, 1e9)] == [False, False], "by hand"
