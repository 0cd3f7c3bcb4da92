"""Risk: a collection takes what a process uses, or a hit is lost to it."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import status, until
from harness.leftovers import alive
from mlc_jit import jit
from mlc_jit.locations import locate

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

    Command = Callable[..., subprocess.CompletedProcess[str]]

HOLD = """
found = jit(*given["ask"]).model_lib_path
print(json.dumps(found), flush=True)
sys.stdin.read()
"""

NOW = ("--max-size=1", "--grace-seconds=0", "--json")


def collected(mlc_jit: Command, *more: str) -> dict[str, Any]:
    """What `mlc-jit gc` does when nothing may stay that can go."""
    done = mlc_jit("gc", *NOW, *more)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def holding(client: Clients, model: Callable[..., Path]) -> Any:
    """Starts a process that asks for a library and stays; its library is its first line."""

    def hold(path: Path, **variables: str) -> tuple[subprocess.Popen[bytes], str]:
        read, write = os.pipe()
        held = client.code(f"sys.stdin = open({read})\n{HOLD}", variables, pass_fds=(read,), ask=[path, {}, "cpu"])
        os.close(read)
        pipes.append(write)
        assert held.process.stdout is not None
        line = held.process.stdout.readline()
        assert line, held.process.stderr and held.process.stderr.read().decode()
        return held.process, json.loads(line)

    pipes: list[int] = []
    yield hold
    for pipe in pipes:
        os.close(pipe)


def test_what_a_process_was_handed_stays_until_it_ends(
    daemon: Daemon, double: Double, holding: Any, mlc_jit: Command, place: Place
) -> None:
    process, path = holding(double.model())
    again, same = holding(double.model())
    assert same == path
    held = collected(mlc_jit)
    assert held["removed"] == []
    assert held["kept"][0]["why"].startswith("in use by process ")
    assert status().cache is not None
    assert status().cache.leased == 1
    process.kill()
    again.send_signal(signal.SIGKILL)
    until(lambda: status().cache.leased == 0, what="the end of the leases")  # type: ignore[union-attr]
    assert list(locate().leases.iterdir()) == []
    assert [each["artifact"] for each in collected(mlc_jit)["removed"]] == [Path(path).name]
    assert place.artifacts() == place.manifests() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lease_outlives_the_daemon_that_gave_it(
    start_daemon: Callable[..., Daemon], double: Double, holding: Any, mlc_jit: Command, number: int
) -> None:
    first = start_daemon()
    process, path = holding(double.model())
    first.stop(number)
    assert collected(mlc_jit)["removed"] == [], "no daemon is needed to see it"
    start_daemon()
    assert status().cache.leased == 1  # type: ignore[union-attr]
    assert collected(mlc_jit)["removed"] == []
    process.kill()
    until(lambda: status().cache.leased == 0, what="its end, seen by the new daemon")  # type: ignore[union-attr]
    assert len(collected(mlc_jit)["removed"]) == 1
    assert not Path(path).exists()


def test_who_goes_on_without_a_daemon_holds_a_lease_too(
    double: Double, holding: Any, mlc_jit: Command, place: Place
) -> None:
    place.runtime.rmdir()
    process, path = holding(double.model(), MLC_JITD_SOCKET=str(place.root / "nobody/listens"))
    held = collected(mlc_jit)
    assert held["removed"] == []
    assert f"process {process.pid} " in held["kept"][0]["why"]
    process.kill()
    process.wait()
    assert len(collected(mlc_jit)["removed"]) == 1
    assert not Path(path).exists()


def test_a_lease_that_can_not_be_written_holds_and_is_counted(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients
) -> None:
    start_daemon()
    shutil.rmtree(locate().leases, ignore_errors=True)
    locate().leases.write_text("in the way")
    client.ask(double.model()).path()
    assert status().counters["leases_unwritten"] >= 1


def test_a_daemon_keeps_its_cache_within_bounds_by_itself(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients, place: Place
) -> None:
    daemon = start_daemon(MLC_JITD_MAX_SIZE="1", MLC_JITD_GRACE_SECONDS="0")
    client.ask(double.model("one", temperature=1)).path()
    client.ask(double.model("two", context_window_size=64)).path()
    until(lambda: not place.artifacts(), what="a collection after the last publish", limit=15)
    until(lambda: not status().cache.over, what="its report, which is written last")  # type: ignore[union-attr]
    last = status().cache
    assert last is not None
    assert (last.max_size, last.leased) == (1, 0)
    assert "removed" in daemon.log.read_text()


def test_a_compile_makes_room_for_itself(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients, place: Place, monkeypatch: Any
) -> None:
    """The disk's free space is a file's content: what the cache takes counts against it."""
    site = place.folder("site")
    (site / "sitecustomize.py").write_text(
        "import os\n"
        "real = os.statvfs\n"
        "def statvfs(path):\n"
        "    found = real(path)\n"
        "    full = any(name.endswith('.so') for name in os.listdir(os.environ['MLC_LLM_HOME'] + '/model_lib'))\n"
        "    if 'mlc_jitd' not in ' '.join(__import__('sys').orig_argv) or not full: return found\n"
        "    return os.statvfs_result((*found[:3], 0, 0, *found[5:10]))\n"
        "os.statvfs = statvfs\n"
    )
    paths = f"{site}:{os.environ['PYTHONPATH']}"
    start_daemon(PYTHONPATH=paths, MLC_JITD_COLLECT_SECONDS="0", MLC_JITD_GRACE_SECONDS="0")
    first = client.ask(double.model("one")).path()
    second = client.ask(double.model("two", context_window_size=64)).path()
    assert not Path(first).exists()
    assert Path(second).exists()


@pytest.fixture
def library(double: Double) -> Path:
    """A real library whose ``answer()`` counts its calls."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    (double.folder / "a.c").write_text("static int calls = 41; int answer(void) { return ++calls; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", double.folder / "a.so", double.folder / "a.c"], check=True)
    return double.folder / "a.so"


def test_a_library_that_a_process_runs_computes_on_whatever_is_collected(
    daemon: Daemon, double: Double, library: Path, mlc_jit: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = double.model()
    monkeypatch.setenv("MLC_DOUBLE_LIBRARY", str(library))
    old = jit(model, {}, "cpu").model_lib_path
    running = ctypes.CDLL(old)
    assert running.answer() == 42
    monkeypatch.setenv("MLC_JIT_POLICY", "REDO")
    monkeypatch.setenv("MLC_DOUBLE_LIBRARY", "")
    new = jit(model, {}, "cpu").model_lib_path
    assert new != old
    assert collected(mlc_jit)["removed"] == [], "this process was handed both"
    assert running.answer() == 43
    # Even if somebody removes it by hand, who runs it goes on.
    for lease in locate().leases.iterdir():
        lease.unlink()
    assert {each["artifact"] for each in collected(mlc_jit)["removed"]} == {Path(old).name, Path(new).name}
    assert not Path(old).exists()
    assert running.answer() == 44


@pytest.fixture
def far_daemon(place: Place, ended: None) -> Any:
    """A daemon in a pid namespace of its own: it can't see the processes that ask it."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() or subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root and pid namespaces")
    read, write = os.pipe()
    with (place.root / "far.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, sys.executable, "-P", "-m", "mlc_jitd", "run", "--ready-fd", str(write)],
            stdout=log, stderr=log, cwd="/", pass_fds=(write,),
        )  # fmt: skip
    os.close(write)
    assert os.read(read, 64) == b"ready\n", (place.root / "far.log").read_text()
    os.close(read)
    yield process
    process.kill()
    process.wait()
    place.stale_sockets = True
    until(lambda: not place.daemons(), what="the daemon's end")


def test_a_process_that_can_not_be_seen_is_held_by_its_connection(
    far_daemon: Any, double: Double, holding: Any, mlc_jit: Command
) -> None:
    _, path = holding(double.model())
    held = collected(mlc_jit)
    assert held["removed"] == []
    assert held["kept"][0]["why"] == "in use by a process in another pid namespace"
    assert Path(path).exists()


RACE = """
os.environ["MLC_JIT_POLICY"] = "READONLY"
counts = [0, 0, 0]
while not os.path.exists(given["stop"]):
    for ask in given["asks"]:
        pid = os.fork()
        if pid == 0:
            try:
                path = jit(*ask).model_lib_path
            except NotCachedError:
                os._exit(1)
            os._exit(0 if os.path.exists(path) else 2)
        counts[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])] += 1
print(json.dumps(counts))
"""


@pytest.mark.timeout(60)
def test_no_path_is_handed_out_that_is_gone(
    daemon: Daemon, double: Double, client: Clients, mlc_jit: Command, place: Place
) -> None:
    """New processes ask again and again, READONLY, while collection follows collection."""
    models = [double.model(f"m{number}", context_window_size=64 + number) for number in range(4)]
    asks = [[str(model), {}, "cpu"] for model in models]
    stop = place.root / "stop"
    client.fleet(models).paths(limit=40)
    readers = [client.code(RACE, stop=stop, asks=asks) for _ in range(2)]
    removed = 0
    for _ in range(4):
        removed += len(collected(mlc_jit)["removed"])
        client.fleet(models).paths(limit=40)
    stop.touch()
    hits, _, lost = map(sum, zip(*[reader.answer(40) for reader in readers], strict=True))
    assert lost == 0
    assert hits > 0
    assert removed > 0, "nothing was ever collected, so nothing was shown"


def test_a_daemon_that_is_stopped_in_a_collection_leaves_whole_entries(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients, place: Place
) -> None:
    daemon = start_daemon(MLC_JITD_MAX_SIZE="1", MLC_JITD_GRACE_SECONDS="0")
    client.ask(double.model()).path()
    daemon.kill()
    assert not alive(daemon.pid)
    start_daemon(MLC_JITD_COLLECT_SECONDS="0")
    keys = {path.name.partition("-")[0] for path in place.artifacts()}
    assert keys == {path.stem for path in place.manifests()}
