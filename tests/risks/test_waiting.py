"""Risk: who waits is left in the dark. Progress to everyone, from its beginning; several models; logs; Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import alive, status, until, waiters
from mlc_jit import api
from mlc_jit.cli import log as log_verb
from mlc_jitd.build.supervisor.log import BoundedLog
from mlc_jitd.store.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

    Command = Callable[..., subprocess.CompletedProcess[str]]
    Start = Callable[..., subprocess.Popen[str]]

LISTEN = """
from mlc_jit import api
heard = []
def say(p):
    heard.append([p.stage, p.fraction, p.left, p.elapsed])
    with open(given["heard"], "a") as file:
        file.write(p.stage + chr(10))
ask = api.make_request(given["model"], {}, "cpu", None, policy=given.get("policy", "ON"))
api.ask(ask, on_progress=say)
print(json.dumps(heard))
"""

STAGES = ["start", "importing", "model", "export", "optimize", "scheduling", "code generation"]


@pytest.fixture
def start(ended: None) -> Iterator[Start]:
    """Starts ``mlc-jit`` and does not wait for it."""
    made: list[subprocess.Popen[str]] = []

    def run(*words: str | Path) -> subprocess.Popen[str]:
        made.append(
            subprocess.Popen(
                [sys.executable, "-P", "-m", "mlc_jit", *map(os.fspath, words)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd="/",
            )
        )
        return made[-1]

    yield run
    for process in made:
        process.kill()
        process.communicate()


def lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


# --- progress -------------------------------------------------------------------------------------------------------


def test_the_first_compile_hears_that_its_compiler_is_loaded_and_the_next_does_not(
    daemon: Daemon, double: Double, place: Place
) -> None:
    def stages(name: str, size: int) -> list[str]:
        heard: list[str] = []
        request = api.make_request(double.model(name, vocab_size=size), {}, "cpu", None, policy="ON")
        api.ask(request, on_progress=lambda step: heard.append(f"{step.stage}: {step.detail}"))
        return heard

    assert "loading: the compiler" in stages("first", 1)
    second = stages("second", 2)
    assert second
    assert "loading: the compiler" not in second
    assert not any("loading" in json.loads(path.read_bytes())["compile"]["stages"] for path in place.manifests())


def test_who_joins_late_hears_what_there_was_and_then_the_rest(daemon: Daemon, double: Double, client: Clients) -> None:
    gate = double.gate()
    model = double.model(told={"wait_for": gate})
    heard = [double.folder / "first", double.folder / "second"]
    first = client.code(LISTEN, model=model, heard=heard[0])
    until(lambda: "code generation" in lines(heard[0]))
    second = client.code(LISTEN, model=model, heard=heard[1])
    until(lambda: "code generation" in lines(heard[1]))
    gate.touch()
    told = [client_.answer() for client_ in (first, second)]
    for each in told:
        stages = [stage for stage, *_ in each]
        assert [stage for stage in STAGES if stage in stages] == STAGES
        assert stages[-1] == "publish"
        assert all(fraction is None and left is None for _, fraction, left, _ in each), "nothing like it was compiled"
        times = [elapsed for *_, elapsed in each]
        assert times == sorted(times)


def test_a_compile_like_one_before_knows_how_far_it_is(daemon: Daemon, double: Double, client: Clients) -> None:
    model = double.model(told={"sleep": 2.5})
    assert client.ask(model).path()
    manifest = json.loads(next(iter((Path(os.environ["MLC_LLM_HOME"]) / "model_lib").glob("*.json"))).read_bytes())
    stages = manifest["compile"]["stages"]
    assert list(stages)[:1] == ["start"]
    assert stages["code generation"] > 2
    assert sum(stages.values()) == pytest.approx(manifest["compile"]["seconds"], abs=1.0)
    heard = client.code(LISTEN, model=model, heard=double.folder / "heard", policy="REDO").answer()
    fractions = [fraction for stage, fraction, *_ in heard if stage != "queued"]
    assert None not in fractions
    assert fractions == sorted(fractions)
    assert max(fractions) <= 0.99
    inside = [fraction for stage, fraction, *_ in heard if stage == "code generation"]
    assert len(set(inside)) >= 2, "the bar moves inside one long stage"
    assert any(left for *_, left, _ in heard)


def test_the_place_in_the_queue_is_told_with_an_estimate(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients, mlc_jit: Command
) -> None:
    start_daemon(MLC_JITD_JOBS="1")
    known = double.model("known", told={"sleep": 0.5})
    assert client.ask(known).path()
    gate = double.gate()
    first = client.ask(double.model("first", told={"wait_for": gate}))
    until(lambda: len(double.starts()) == 2)
    queued = client.code(LISTEN, model=known, heard=double.folder / "heard", policy="REDO")
    until(lambda: waiters() == 2)
    (job,) = [job for job in status().jobs if job.state == "queued"]
    assert job.detail.startswith("position 1")
    assert job.left is None or job.left >= 0
    assert " #1 " in mlc_jit("status").stdout
    gate.touch()
    first.path()
    assert queued.answer()[0][0] == "queued"


# --- several models -------------------------------------------------------------------------------------------------


def test_several_models_are_asked_for_at_once_and_printed_in_their_order(
    start_daemon: Callable[..., Daemon], double: Double, mlc_jit: Command, start: Start
) -> None:
    start_daemon(MLC_JITD_JOBS="4", MLC_JITD_CORES_PER_JOB="1")
    gates = [double.gate(f"gate{n}") for n in range(3)]
    models = [double.model(f"m{n}", told={"wait_for": gates[n]}, vocab_size=100 + n) for n in range(3)]
    running = start("compile", *models, "--device", "cpu")
    until(lambda: waiters() == 3)
    for gate in reversed(gates):
        gate.touch()
    out, err = running.communicate(timeout=40)
    assert running.returncode == 0, err
    assert [Path(path).is_file() for path in out.splitlines()] == [True] * 3
    assert {line.split(": ")[1] for line in err.splitlines()} == {"m0", "m1", "m2"}
    again = mlc_jit("compile", *models, "--device", "cpu")
    assert (again.stdout, again.stderr) == (out, ""), "in the order given; hits say nothing"
    listed = json.loads(mlc_jit("compile", "--json", *models, "--device", "cpu").stdout)
    assert [(each["model"], each["path"], each["source"]) for each in listed] == [
        (str(model), path, "hit") for model, path in zip(models, out.splitlines(), strict=True)
    ]


def test_of_several_the_worst_counts_and_the_others_are_handed_out(
    daemon: Daemon, double: Double, mlc_jit: Command
) -> None:
    good, bad = double.model("good"), double.model("bad", told={"raise": "no such layer"})
    nowhere = double.folder / "nowhere"
    done = mlc_jit("compile", bad, good, nowhere, "--device", "cpu")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert "mlc-jit: bad: The compile failed" in done.stderr
    assert "mlc-jit: nowhere: The model folder" in done.stderr
    assert mlc_jit("compile", good, nowhere, "--device", "cpu").returncode == 2
    listed = json.loads(mlc_jit("compile", "--json", good, nowhere, "--device", "cpu").stdout)
    assert [each.get("error", "") for each in listed] == ["", "config-not-found"]


def test_ctrl_c_ends_all_waits_at_once_and_lone_compiles(
    start_daemon: Callable[..., Daemon], double: Double, start: Start, client: Clients
) -> None:
    start_daemon(MLC_JITD_JOBS="2", MLC_JITD_CORES_PER_JOB="1", MLC_JITD_WARM="off")
    gate = double.gate()
    shared = double.model("shared", told={"wait_for": gate})
    lone, queued = double.model("lone", told={"hang": True}), double.model("queued", told={"hang": True})
    other = client.ask(shared)
    until(lambda: len(double.starts()) == 1)
    running = start("compile", shared, lone, queued, "--device", "cpu")
    until(lambda: waiters() == 4)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert (running.returncode, out) == (130, "")
    assert "Traceback" not in err
    until(lambda: waiters() == 1)
    gate.touch()
    assert Path(other.path()).is_file(), "what somebody else waits for goes on"
    until(lambda: not status().jobs)
    until(lambda: not any(map(alive, double.starts())))


# --- the log --------------------------------------------------------------------------------------------------------


def test_the_log_of_a_key_is_found_by_its_beginning_with_or_without_a_daemon(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients, mlc_jit: Command
) -> None:
    daemon = start_daemon()
    path = client.ask(double.model(told={"print": ["a line of the compiler's"]})).path()
    key = Path(path).name[:64]
    shown = mlc_jit("log", key[:12])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "a line of the compiler's" in shown.stdout
    where = mlc_jit("log", "--path", key).stdout.strip()
    assert Path(where).read_text() == shown.stdout
    daemon.stop()
    assert mlc_jit("log", key[:12]).stdout == shown.stdout
    assert mlc_jit("log", "-f", key[:12]).stdout == shown.stdout, "what is over is not waited for"
    told = json.loads(mlc_jit("log", "--json", key[:12]).stdout)
    assert told == {"key": key, "path": where, "text": shown.stdout}


def test_a_running_log_is_followed_to_its_end(daemon: Daemon, double: Double, client: Clients, start: Start) -> None:
    gate = double.gate()
    running = client.ask(double.model(told={"print": ["before the gate"], "wait_for": gate}))
    until(double.starts)
    (job,) = status().jobs
    following = start("log", "-f", job.key[:8])
    assert following.stdout is not None
    said = following.stdout.readline()
    assert "before the gate" in said
    gate.touch()
    running.path()
    out, err = following.communicate(timeout=20)
    assert (following.returncode, err) == (0, "")
    assert "Generated:" in out


def test_a_queued_compile_is_waited_for(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients, start: Start, mlc_jit: Command
) -> None:
    start_daemon(MLC_JITD_JOBS="1")
    gate = double.gate()
    first = client.ask(double.model("first", told={"wait_for": gate}))
    until(double.starts)
    second = client.ask(double.model("second", told={"print": ["second"]}))
    until(lambda: waiters() == 2)
    (job,) = [job for job in status().jobs if job.state == "queued"]
    assert mlc_jit("log", job.key).returncode == 2
    following = start("log", "-f", job.key)
    gate.touch()
    first.path()
    second.path()
    out, _ = following.communicate(timeout=20)
    assert "second" in out


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("abc", "no compiler log of a key"),
        ("xyz", "not the beginning of a key"),
        ("../x", "not the beginning"),
        ("", ""),
    ],
)
def test_a_key_that_is_none(mlc_jit: Command, key: str, says: str) -> None:
    done = mlc_jit("log", key)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_beginning_that_several_keys_have(place: Place, mlc_jit: Command) -> None:
    logs = place.library / ".logs"
    logs.mkdir(parents=True)
    for last in "01":
        (logs / f"{'ab' * 31}a{last}.log").write_text(last)
    done = mlc_jit("log", "abab")
    assert (done.returncode, "2 keys begin with" in done.stderr) == (2, True)
    assert mlc_jit("log", f"{'ab' * 31}a1").stdout == "1"


def test_a_log_that_is_written_anew_is_followed_from_its_beginning(
    place: Place, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "ab" * 32
    log = place.library / ".logs" / f"{key}.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"first, a long line\n")
    states = iter([True, True, False])

    def held(_path: Path) -> bool:
        goes_on = next(states)
        if not goes_on:
            log.write_bytes(b"second\n")
        return goes_on

    monkeypatch.setattr(log_verb, "is_held", held)
    monkeypatch.setattr(log_verb, "LOOK_SECONDS", 0)
    log_verb._follow(place.cache, key, log)
    assert capfdbinary.readouterr().out == b"first, a long line\nsecond\n"


class Written:
    """A log that the daemon's own code writes, followed by the verb's own."""

    def __init__(self, folder: Path, capfdbinary: Any) -> None:
        self.path = folder / "log"
        self.log = BoundedLog(str(self.path), LIMIT, "job")
        self.growing = log_verb.Growing(self.path)
        self.captured = capfdbinary
        self.shown = b""
        self.said = ""

    def look(self) -> None:
        assert self.growing.look()
        out, err = self.captured.readouterr()
        self.shown += out
        self.said += err.decode()


LIMIT = 256 << 10
LINES = [b"line %05d\n" % n for n in range(60_000)]  # 11 bytes each


@pytest.fixture
def written(tmp_path: Path, capfdbinary: Any) -> Written:
    return Written(tmp_path, capfdbinary)


def test_a_followed_log_is_shown_once_and_whole_up_to_its_limit(written: Written) -> None:
    for n in range(0, 20_000, 100):
        written.log.write(b"".join(LINES[n : n + 100]))
        written.look()
    written.log.finish()
    written.look()
    written.growing.end()
    written.look()
    assert written.shown == b"".join(LINES[:20_000])
    assert written.said == ""


@pytest.mark.parametrize("looks", [1, 7, 50, 1000], ids="looks at every {}th write".format)
def test_beyond_its_limit_the_end_of_a_followed_log_is_shown_when_it_is_over(written: Written, looks: int) -> None:
    for number, n in enumerate(range(0, 60_000, 100)):
        written.log.write(b"".join(LINES[n : n + 100]))
        if number % looks == 0:
            written.look()
    written.log.finish()
    written.look()
    written.growing.end()
    written.look()
    shown = [line for line in written.shown.splitlines(keepends=True) if line.startswith(b"line ")]
    if looks < 1000:
        assert written.said.count("has reached its limit") == 1
        assert written.said.count("the end of ") == 1
    assert shown[:10_000] == LINES[:10_000], "what it kept of its beginning"
    assert shown[-5_000:] == LINES[-5_000:], "its end"
    assert len(written.shown) < 2 * LIMIT, "nothing again and again"


def test_the_next_compiles_log_is_followed_too(written: Written) -> None:
    written.log.write(b"".join(LINES[:50]))
    written.look()
    written.log.finish()
    written.log = BoundedLog(str(written.path), LIMIT, "next")
    written.log.write(b"the next\n")
    written.look()
    written.log.finish()
    assert written.shown == b"".join(LINES[:50]) + b"the next\n"


def test_client_and_daemon_agree_on_where_logs_and_locks_are(place: Place) -> None:
    layout = Layout.of(place.cache)
    assert place.cache / log_verb.LOCKS == layout.locks
    assert place.cache / log_verb.LOGS == layout.logs
