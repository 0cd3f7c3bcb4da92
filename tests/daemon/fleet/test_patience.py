"""When a bucket is asked, and what of it is kept: pure cores, with time as a value."""

from __future__ import annotations

import pytest

from mlc_jit.errors import RequestError
from mlc_jitd.fleet.catalogue import Catalogue, Row
from mlc_jitd.fleet.guard import AwayError, Guard
from mlc_jitd.fleet.keys import PublicKey, make_key, read_key, read_trust
from mlc_jitd.fleet.objects import AbsentError, DeniedError, FaultError, Meta, open_bucket
from mlc_jitd.fleet.patience import BUDGET, FAULTS, LONGEST_PAUSE_SECONDS, PAUSE_SECONDS, Breaker, Budget
from mlc_jitd.fleet.recency import USES, Recency, last_uses
from mlc_jitd.fleet.retention import DAY, GRACE, Rules, plan


def test_faults_in_a_row_open_the_circuit_and_a_probe_decides():
    breaker = Breaker()
    for _ in range(FAULTS - 1):
        assert not breaker.failed(0.0)
    breaker.succeeded()
    assert [breaker.failed(1.0) for _ in range(FAULTS)] == [False] * (FAULTS - 1) + [True]
    now = 1.0
    pause = PAUSE_SECONDS
    for _ in range(9):
        assert breaker.open
        assert not breaker.probe_due(now + pause - 0.01)
        now += pause
        assert breaker.probe_due(now)
        assert not breaker.probe_due(now), "one asks"
        breaker.failed(now)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    breaker.failed(now)  # asked before it opened: no longer pause for that
    assert breaker.until == now + pause
    breaker.succeeded()
    assert not breaker.open


def test_an_outage_uses_the_budget_up_and_successes_refill_it():
    budget = Budget()
    assert sum(budget.spend() for _ in range(100)) == BUDGET
    for _ in range(20):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]


class Scripted:
    """A bucket that does what it is told."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)

    def head(self, name):
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return Meta(name, 0, 0.0)


def test_what_failed_at_once_is_tried_again_and_what_was_slow_is_not():
    now = [0.0]
    slow = Guard(
        Scripted(FaultError("x")), clock=lambda: now.__setitem__(0, now[0] + 3.0) or now[0], sleep=lambda _s: None
    )
    with pytest.raises(FaultError):
        slow.head("a")
    assert slow.counters["remote_retries"] == 0
    quick = Guard(Scripted(FaultError("x"), FaultError("x")), clock=lambda: 0.0, sleep=lambda _s: None)
    assert quick.head("a").name == "a"
    assert (quick.counters["remote_retries"], quick.counters["remote_faults"]) == (2, 2)


def test_an_absent_object_is_an_answer_and_a_denied_one_no_reason_to_stop():
    guard = Guard(Scripted(*[AbsentError("x")] * 5, *[DeniedError("x")] * 5), clock=lambda: 0.0, sleep=lambda _s: None)
    for _ in range(5):
        with pytest.raises(AbsentError):
            guard.head("a")
    for _ in range(5):
        with pytest.raises(DeniedError):
            guard.head("a")
    assert guard.health("read").ok
    assert guard.health("read").trouble == "x"
    assert guard.counters["remote_requests"] == 10


def test_while_the_circuit_is_open_nobody_asks_and_the_probe_closes_it():
    now = [0.0]
    guard = Guard(Scripted(*[FaultError("x")] * FAULTS), clock=lambda: now[0], sleep=lambda _s: None)
    with pytest.raises(FaultError):
        guard.head("a")
    with pytest.raises(AwayError):
        guard.head("a")
    guard.probe()
    assert not guard.health("read").ok
    now[0] = PAUSE_SECONDS
    guard.probe()
    assert guard.health("read").ok
    assert guard.head("a").name == "a"


def test_a_door_that_nobody_probes_is_tried_by_who_has_a_request():
    """Once for each pause, which a failure makes longer; the leases' door is such a one."""
    now = [0.0]
    faults = [FaultError("x")] * (FAULTS + 1)
    guard = Guard(Scripted(*faults), unattended=True, clock=lambda: now[0], sleep=lambda _s: None)
    with pytest.raises(FaultError):
        guard.head("a")
    for now[0] in (PAUSE_SECONDS - 0.1, PAUSE_SECONDS, 3 * PAUSE_SECONDS - 0.1):
        with pytest.raises(FaultError):
            guard.head("a")
    assert guard.counters["remote_requests"] == FAULTS + 1
    now[0] = 3 * PAUSE_SECONDS
    assert guard.head("a").name == "a"
    assert guard.health("read").ok


def test_a_use_is_told_once_a_day_by_who_comes_first():
    bucket, now = open_bucket("memory:///"), [DAY * 20_000]
    first, second = (Recency(bucket, clock=lambda: now[0], spread=100) for _ in range(2))
    key = "a" * 64
    for _ in range(3):
        first.note(key)
        first.flush()
    now[0] += 100
    first.flush()
    assert [each.name.rpartition("/")[2] for each in bucket.list(USES, most=9)] == [key]
    second.note(key)
    second.flush(now=True)
    assert len(bucket.list(USES, most=9)) == 1
    assert last_uses(bucket)[0] == {key: DAY * 20_001}
    now[0] += DAY
    second.note(key)
    second.flush(now=True)
    assert last_uses(bucket)[0] == {key: DAY * 20_002}


def test_what_is_not_believed_is_kept_and_so_are_strays_beside_it():
    now = 1000 * DAY
    old = Meta("v1/libraries/k/s", 1, 0.0)
    stray = {"b" * 64: Meta("v1/blobs/b", 5, 0.0), "c" * 64: Meta("v1/blobs/c", 7, now - GRACE + 1)}
    decided = plan(Catalogue((Row(old, "k", why="signed by nobody"),), stray), {}, Rules(), now)
    assert [each.keep for each in decided.verdicts] == [True]
    assert decided.blobs == ()
    assert plan(Catalogue((), stray), {}, Rules(), now).blobs == ("v1/blobs/b",), (
        "and what is young may be about to be named"
    )


def test_keys_are_read_as_they_were_written(tmp_path):
    public = make_key(tmp_path / "a.pem")
    private = read_key(tmp_path / "a.pem")
    assert private.public == public == PublicKey.parse(public.text)
    assert public.signed(private.sign(b"x"), b"x")
    assert not public.signed(private.sign(b"x"), b"y")
    (tmp_path / "keys").write_text(f"# ours\n{public.text} the builders\n\n")
    assert read_trust(f"{tmp_path}/keys:{public.text}").keys == (public,)
    assert read_trust("", private).keys == (public,)
    assert read_trust("anyone").anyone
    for bad in (public.text[:-1], public.text + "A", "ed25519-", "x", f"{tmp_path}/none"):
        with pytest.raises(RequestError):
            read_trust(bad)
    for text in ("", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        (tmp_path / "bad.pem").write_text(text)
        (tmp_path / "bad.pem").chmod(0o600)
        with pytest.raises(RequestError):
            read_key(tmp_path / "bad.pem")
