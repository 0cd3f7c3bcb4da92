"""The log on disk, the lines passed on, the text made fit to read."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING

import psutil
import pytest

from mlc_jitd.build.supervisor.lines import LineTap
from mlc_jitd.build.supervisor.log import BoundedLog, unfinished_tail
from mlc_jitd.build.text import clean_line, clean_text

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Bench


@pytest.mark.timeout(60)
def test_a_flood_is_bounded_on_disk_and_in_memory(bench: Bench) -> None:
    limit = 1 << 20
    disk, supervisor_rss, own_rss = [], [], [psutil.Process().memory_info().rss]

    def look(_: str) -> None:
        disk.append(bench.log.stat().st_blocks * 512)
        with contextlib.suppress(psutil.Error, StopIteration):  # the last lines may come when it has ended
            supervisor_rss.append(bench.supervisor().memory_info().rss)
        own_rss.append(psutil.Process().memory_info().rss)

    outcome = bench.run(
        bench.script("""
            import os
            os.write(1, b"the first line\\n")
            block = b"".join(b"%07d of a flood that nobody will read\\n" % n for n in range(2000))
            for _ in range(1_000_000_000 // len(block)):
                os.write(1, block)
            os.write(1, b"the last line\\n")
        """),
        on_line=look,
        log_bytes=limit,
    )
    print(f"1 GB in {outcome.seconds:.2f} s; supervisor at most {max(supervisor_rss) / 1e6:.0f} MB")
    assert outcome.status == "exited"
    assert outcome.seconds < 40
    assert outcome.log_truncated
    assert max(disk) <= limit + 4096
    assert outcome.log_path.stat().st_size <= limit
    assert max(supervisor_rss) < 60e6
    assert max(own_rss) - own_rss[0] < 20e6
    assert 10 < len(disk) < 60 * (outcome.seconds + 2)
    text = outcome.log_path.read_text()
    assert text.startswith("the first line\n")
    assert text.endswith("the last line\n")
    assert "bytes left out …]\n" in text
    assert outcome.log_tail.endswith("the last line\n")


@pytest.mark.parametrize("seed", range(30))
def test_log_keeps_the_beginning_and_the_end_whatever_the_chunks(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    limit = dice.randrange(4096, 20_000)
    total = dice.randrange(1, 60_000)
    data = b"".join(b"%06d\n" % n for n in range(total // 7 + 1))[:total]
    path = tmp_path / "log"
    log = BoundedLog(str(path), limit, "job")
    at = 0
    while at < total:
        size = dice.choice([1, 10, 100, 1000, 9000])
        log.write(data[at : at + size])
        at += size
        assert path.stat().st_size <= limit
        newest, truncated = unfinished_tail(path.read_bytes(), limit, "job")
        assert data[:at].endswith(newest)
        assert len(newest) >= min(at, 1500)
        assert truncated == (log.left_out > 0)
    log.finish()
    kept = path.read_bytes()
    assert len(kept) <= limit
    assert log.tail == data[-len(log.tail) :]
    if not log.left_out:
        assert kept == data
        return
    gap = f"\n[… {log.left_out} bytes left out …]\n".encode()
    first, found, last = kept.partition(gap)
    assert found
    assert data.startswith(first)
    assert data.endswith(last)
    assert len(first) + len(last) + log.left_out == total
    assert len(kept) >= limit * 0.8


def test_log_that_cannot_be_written_harms_nothing(bench: Bench) -> None:
    bench.log = bench.folder / "missing" / "job.log"
    outcome = bench.run(bench.command("echo", "hello"))
    assert outcome.succeeded
    assert outcome.log_tail == "hello\n"
    assert "the log is incomplete: No such file or directory" in outcome.detail
    assert outcome.log_truncated


def test_log_on_a_full_disk(bench: Bench) -> None:
    bench.log.symlink_to("/dev/full")
    assert "the log is incomplete" in bench.run(bench.command("echo", "hello")).detail
    log = BoundedLog("/dev/full", 4096, "job")
    log.write(b"hello")
    log.finish()
    assert log.error == "No space left on device"
    assert log.tail == b"hello"


def test_an_older_log_is_replaced_and_private(bench: Bench) -> None:
    bench.log.write_text("old " * 100)
    bench.log.unlink()
    bench.run(bench.command("echo", "new"))
    assert bench.log.read_text() == "new\n"
    assert bench.log.stat().st_mode & 0o777 == 0o600


def test_progress_bars_partial_lines_colours_and_broken_text(bench: Bench) -> None:
    outcome = bench.run(
        bench.command("printf", r"\033[31mred\033[0m\r\n10%%\r20%%\r30%%\nbad \377 byte\n\n\007bell\nno end", env={})
    )
    assert bench.lines == ["red", "10%", "20%", "30%", "bad \ufffd byte", "bell", "no end"]
    assert outcome.log_tail == "red\n30%\nbad \ufffd byte\n\nbell\nno end"


def test_a_long_line_is_cut_for_people_and_whole_in_the_log(bench: Bench) -> None:
    outcome = bench.run(bench.script("print('ä' * 100_000)\nprint('next')"))
    assert bench.lines == ["ä" * 2000, "next"]
    assert outcome.log_path.stat().st_size == 200_006


def test_marked_lines_pass_in_a_flood(bench: Bench) -> None:
    bench.run(
        bench.script("""
            for n in range(100_000):
                print("noise", n)
                if n % 10_000 == 0:
                    print("[stage]", n)
        """),
        marks=("[stage]",),
    )
    assert [line for line in bench.lines if "[stage]" in line] == [f"[stage] {n}" for n in range(0, 100_000, 10_000)]
    assert len(bench.lines) < 1000


def test_tap_gives_lines_in_order_and_by_rate() -> None:
    tap = LineTap(2, [b"!"])
    assert tap.feed(b"a\nb\nc\nd!\ne", 100.0) == ["a", "b", "d!"]
    assert tap.feed(b"f\n", 100.0) == []
    assert tap.feed(b"g\n", 101.0) == ["g"]
    assert tap.feed(b"\n\n\nh\n\ni", 102.0) == ["h"]
    assert tap.rest() == ["i"]
    assert tap.rest() == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_tap_does_not_care_how_output_is_cut(size: int) -> None:
    text = b"one\r\ntwo\rthree\n\nfour " + b"x" * 20_000 + b"\nfive"
    tap = LineTap(1000, [])
    got = [line for at in range(0, len(text), size) for line in tap.feed(text[at : at + size], 1.0)] + tap.rest()
    assert got == ["one", "two", "three", ("four " + "x" * 20_000)[:8000], "five"]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("\x1b[1;32mok\x1b[0m", "ok"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b(Bplain\x1b[K", "plain"),
        ("tab\there\x00\x08\x9b", "tab\there"),
    ],
)
def test_clean(raw: str, clean: str) -> None:
    assert clean_line(raw) == clean
    assert clean_text(raw) == clean


def test_clean_text_keeps_the_last_state_of_a_bar() -> None:
    assert clean_text("10%\r20%\r30%\ndone\r\nend\r") == "30%\ndone\nend"
