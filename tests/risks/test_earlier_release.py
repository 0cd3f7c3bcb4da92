"""Risk: what an earlier state of this project speaks is not understood any more, or the two end each other's daemons.

The earlier states are commits of this repository, taken out of its history: real code, not a script of what it may have
been. A clone without that history skips these tests; the golden bytes (``tests/client/golden``) hold the wire all the
same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.daemons import until
from harness.releases import LOOKS, SAYING, STEADY, Installed

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

EARLIER = {
    "first": "a261532",
    "before-the-fleet": "675dd35",
}
"""The first that was whole, and the last of a single host for a single user."""

pytestmark = pytest.mark.timeout(90)


def put(here: Installed, what: str) -> None:
    """The packages of an earlier state, or of this one (``now``), instead of those that are there."""
    if what == "now":
        here.put_now()
    else:
        here.put_commit(EARLIER[what])


@pytest.fixture
def installed(place: Place) -> Callable[[str], Installed]:
    def make(what: str) -> Installed:
        found = Installed(place.folder(f"site-{len(list(place.root.glob('site-*')))}"))
        put(found, what)
        return found

    return make


@pytest.mark.parametrize("earlier", list(EARLIER))
@pytest.mark.parametrize("daemons", ["earlier", "now"])
def test_clients_of_either_use_the_daemon_that_is_there(
    earlier: str,
    daemons: str,
    installed: Callable[[str], Installed],
    start_daemon: Callable[..., Daemon],
    double: Double,
    client: Clients,
    place: Place,
) -> None:
    old, new = installed(earlier), installed("now")
    daemon = start_daemon(**(old if daemons == "earlier" else new).variables)
    hit, miss = double.model("hit"), double.model("miss", vocab_size=700)
    asking = [(old, hit), (new, hit), (old, hit), (new, miss), (old, miss)]
    answers = [client.code(SAYING, each.variables, ask=[model, {}, "cpu"]).answer() for each, model in asking]
    assert [said["said"] for said in answers] == [[]] * 5, "nobody went on without it"
    paths = [said["result"] for said in answers]
    assert paths[0] == paths[1] == paths[2] != paths[3] == paths[4]
    assert len(double.starts()) == 2
    assert place.daemons() == [daemon.pid]


@pytest.mark.parametrize(("before", "after"), [("before-the-fleet", "now"), ("now", "before-the-fleet")])
def test_an_upgrade_and_a_downgrade_in_place_restart_once_and_lose_no_request(
    before: str,
    after: str,
    installed: Callable[[str], Installed],
    start_daemon: Callable[..., Daemon],
    double: Double,
    client: Clients,
    place: Place,
) -> None:
    here = installed(before)
    daemon = start_daemon(LOOKS, **here.variables)
    gate, end = double.gate(), place.root / "end"
    hit = double.model("hit")
    client.ask(hit, **here.variables).path()
    waiting = client.ask(double.model("slow", told={"wait_for": gate}), **here.variables)
    until(lambda: len(double.starts()) == 2)
    steady = client.code(STEADY, here.variables, model=hit, end=end)
    until(Path(f"{end}.steady").exists, what="a client that has asked before")
    put(here, after)
    until(lambda: "installation was replaced" in daemon.log.read_text(), limit=30)
    until(lambda: [pid for pid in place.daemons() if pid != daemon.pid], what="a successor", limit=30)
    gate.touch()
    assert Path(waiting.path()).is_file()
    assert daemon.process.wait(40) == 0
    end.touch()
    said = steady.answer()
    assert said["said"] == [], "nobody went on without a daemon"
    assert len(place.daemons()) == 1, "one restart"
    # Where our own part of the compiler's code differs between the two, so do their keys: one compile more, once.
    paths = said["paths"]
    assert len(paths) <= 2
    assert client.ask(hit, **here.variables).path() in paths
    assert len(double.starts()) == 1 + len(paths)
