from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlc_jitd.observe import history as h
from mlc_jitd.observe.history import Counts, History
from mlc_jitd.observe.record import SPANS, TEXT, WAITERS, Answer, Ending, Kernels, Record, Subject, Who
from mlc_jitd.observe.who import named

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = (b"one", 1), (b"two", 1)
KEY = "a" * 64


def under_way(record: Record, key: str = KEY, **fields) -> None:
    record.enqueued(Subject(key=key, **fields), now=100.0, unix=1e9, background=False)


def test_a_job_from_its_queueing_to_its_end():
    record = Record()
    under_way(record, model="/models/tiny", reason="absent")
    record.joined(KEY, ONE, Who(pid=1), now=100.0)
    record.joined(KEY, ONE, Who(pid=1), now=100.5)  # told twice: nothing new
    record.started(KEY, cores=2, now=102.0)
    record.entered(KEY, "lower", "", now=103.0)
    record.entered(KEY, "lower", "again", now=103.5)  # the same stage goes on
    record.joined(KEY, TWO, Who(pid=2), now=104.0)
    (seen,) = record.jobs(now=105.0)
    assert (seen.ending.outcome, seen.seconds, seen.waiters[1].outcome) == ("running", 5.0, "waits")
    record.left(TWO, now=106.0)
    made = record.finished(KEY, Ending(outcome="compiled", size=5), now=110.0)
    assert made is not None
    assert [(span.name, span.at, span.seconds) for span in made.spans] == [
        ("queued", 0.0, 2.0),
        ("start", 2.0, 1.0),
        ("lower", 3.0, 7.0),
    ]
    assert [(wait.who.pid, wait.at, wait.seconds, wait.outcome) for wait in made.waiters] == [
        (1, 0.0, 10.0, "served"),
        (2, 4.0, 2.0, "left"),
    ]
    assert (made.queued, made.cores, made.asked, made.seconds) == (2.0, 2, 1e9, 10.0)
    assert list(record.ended) == [made]
    assert list(record.jobs(now=111.0)) == []
    assert record.counts == {"jobs_compiled": 1}


def test_a_second_try_waits_again():
    record = Record()
    under_way(record)
    record.started(KEY, cores=1, now=101.0)
    record.requeued(KEY, "once more", tried=True, now=105.0)
    assert [job.ending.outcome for job in record.jobs(now=106.0)] == ["queued"]
    record.started(KEY, cores=1, now=107.0)
    made = record.finished(KEY, Ending(outcome="failed", cause="\n  out of memory \nmore"), now=109.0)
    assert made is not None
    assert (made.retried, made.queued, made.ending.cause) == (True, 3.0, "out of memory")


def test_what_was_never_heard_of_is_nothing_to_do():
    record = Record()
    record.joined(KEY, ONE, Who(), now=1.0)
    record.left(ONE, now=1.0)
    record.started(KEY, cores=1, now=1.0)
    record.entered(KEY, "x", "", now=1.0)
    record.requeued(KEY, "", tried=False, now=1.0)
    assert record.finished(KEY, Ending(outcome="failed"), now=1.0) is None


def test_the_record_is_bounded():
    record = Record(jobs=3, answers=2)
    for number in range(9):
        under_way(record, key=f"{number:064x}", model="m" * 9999, why="w" * 9999)
        for waiter in range(2 * WAITERS):
            record.joined(f"{number:064x}", (b"%d" % number, waiter), Who(), now=101.0)
        for stage in range(2 * SPANS):
            record.entered(f"{number:064x}", str(stage), "d" * 9999, now=102.0 + stage)
        made = record.finished(f"{number:064x}", Ending(outcome="failed", cause="c" * 9999), now=999.0)
        assert made is not None
        assert (len(made.waiters), made.more, len(made.spans)) == (WAITERS, WAITERS, SPANS)
        assert len(made.ending.cause) == len(made.subject.why) == len(made.spans[-1].detail) == TEXT
        record.answered(Answer(at=1.0, key="", source="hit", who=Who()))
    assert (len(record.ended), len(record.answers)) == (3, 2)
    assert record.counts["hit"] == 9
    assert not record._waits


def made(key: str = KEY, **fields):
    record = Record()
    record.enqueued(Subject(key=key, **fields), now=0.0, unix=5.0, background=True)
    record.joined(key, ONE, Who(pid=7, uid=1000, program="serve.py"), now=0.5)
    ending = Ending(outcome="compiled", peak_memory=5, kernels=Kernels(total=3, reused=2, saved=1.5))
    found = record.finished(key, ending, now=2.0)
    assert found is not None
    return found


@given(st.text(st.one_of(st.characters(), st.sampled_from("\ud800\udcff\n\x00"))))
def test_whatever_a_path_holds_a_record_survives_the_file(text):
    one = made(model=text)
    line = h.encode(one)
    assert b"\n" not in line
    assert h.decode(line) == one
    json.loads(line)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path)


def test_what_is_written_is_read_in_order(history):
    jobs = [made(f"{number:064x}", model="/models/ä") for number in range(5)]
    history.add_jobs(jobs[:2])
    history.add_jobs(jobs[2:])
    assert list(history.jobs()) == jobs
    assert history.folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in history.folder.iterdir())


def test_nothing_written_is_nothing_to_read(history):
    assert list(history.jobs()) == []
    assert history.hours() == {}
    history.add_jobs([])
    assert not history.folder.exists()


@pytest.mark.parametrize("cut", [1, 30, -2])
def test_a_torn_line_costs_itself_alone(history, cut):
    one, two, three = (made(f"{number:064x}") for number in range(3))
    history.add_jobs([one, two])
    file = history.folder / "jobs.jsonl"
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    file.write_bytes(whole[:first] + whole[first:][:cut])
    assert list(history.jobs()) == [one]
    history.add_jobs([three])
    assert list(history.jobs()) == [one, three]


def test_a_line_of_a_later_format_and_one_of_rubbish_are_passed_over(history):
    one = made()
    history.add_jobs([one])
    with (history.folder / "jobs.jsonl").open("ab") as file:
        file.write(h.encode(one).replace(b'"v":1', b'"v":2') + b"\n\xff\xfe{}\n[]\n" + b"9" * 99999 + b"\n")
    history.add_jobs([one])
    assert list(history.jobs()) == [one, one]


def test_a_field_of_a_later_version_is_ignored(history):
    one = made()
    history.add_jobs([one])
    file = history.folder / "jobs.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"subject":{', b'"tomorrow":1,"subject":{"tomorrow":[1],'))
    assert list(history.jobs()) == [one]


def test_a_long_file_is_put_aside_and_the_one_before_goes(tmp_path):
    length = len(h.encode(made())) + 1
    history = History(tmp_path, job_bytes=10 * length)
    for number in range(35):
        history.add_jobs([made(f"{number:064x}")])
    kept = [int(job.subject.key, 16) for job in history.jobs()]
    assert kept == list(range(20, 35))  # ten aside, five in the present one
    assert sum(path.stat().st_size for path in history.folder.iterdir()) <= 21 * length


def _write(folder: Path, writer: int, lines: int) -> None:
    history = History(folder, job_bytes=20_000)
    for number in range(lines):
        history.add_jobs([made(f"{writer * 1000 + number:064x}", why="w" * 250)])


def test_several_writers_never_tear_each_others_lines(tmp_path):
    spawn = multiprocessing.get_context("fork")
    writers = [spawn.Process(target=_write, args=(tmp_path, writer, 100)) for writer in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
        assert each.exitcode == 0
    history = History(tmp_path)
    lines = [line for name in ("jobs.1.jsonl", "jobs.jsonl") for line in _lines(history.folder / name)]
    assert len(lines) > 20
    assert all(h.decode(line) is not None for line in lines)


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def test_a_link_in_the_place_of_the_file_is_not_written_through(history, tmp_path):
    victim = tmp_path / "victim"
    victim.touch()
    history.folder.mkdir()
    (history.folder / "jobs.jsonl").symlink_to(victim)
    with pytest.raises(OSError):
        history.add_jobs([made()])
    assert victim.read_bytes() == b""


def test_counts_are_added_up_by_the_hour(history):
    for end, hits in ((3600.0, 1), (3700.0, 2), (7199.9, 3), (7200.0, 4)):
        history.add_counts(Counts(begin=end - 300, end=end, counts={"hit": hits, "misses_absent": 1}))
    assert history.hours() == {
        3600: Counter({"hit": 6, "misses_absent": 3}),
        7200: Counter({"hit": 4, "misses_absent": 1}),
    }


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], ""),
        (["/usr/bin/mlc_serve", "--key", "secret"], "mlc_serve"),
        (["/usr/bin/python3.11", "-P", "-m", "mlc_jit", "compile"], "mlc_jit"),
        (["python3", "-W", "error", "-u", "/srv/app/serve.py", "--token", "secret"], "serve.py"),
        (["python", "-c", "print('secret')"], "python"),
        (["python"], "python"),
        (["python", "-m"], "python"),
        (["x\x1b[31m" + "y" * 99], "x?[31m" + "y" * 42),
    ],
)
def test_of_a_command_line_only_the_program_is_kept(words, name):
    assert named(words) == name
