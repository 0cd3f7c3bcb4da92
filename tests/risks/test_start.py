"""Risk: no daemon, two daemons, or one that dies with its starter, hangs its pipe or can't be told from a dead one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from harness.daemons import status, until
from harness.systemd import run_under_systemd
from mlc_jit import JitError, jit, watching

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

REPOSITORY = Path(__file__).parents[2]


INHERIT = """
os.set_inheritable(given["fd"], True)
print(json.dumps(jit(given["model"], {}, "cpu").model_lib_path))
"""


HESITATE = """
import sys
from mlc_jitd.app import run
run(ready=lambda: (print("serves", flush=True), sys.stdin.readline()))
"""


SPOILT = """
from mlc_jitd import server
from mlc_jitd.app import run
made = []
class Server(server.Server):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        made.append(self)
import mlc_jitd.app
mlc_jitd.app.Server = Server
def spoil():
    made[0]._flush = None  # its thread dies of it when it wakes
    print("serves", flush=True)
run(ready=spoil)
"""


def starts_logged(place: Place) -> int:
    return sum(log.read_text().count(" serves ") for log in place.runtime.glob("*.log"))


def test_who_asks_a_daemon_before_its_engine_turns_is_answered(place: Place) -> None:
    """The socket is served, and nothing else has begun: what is answered at once reaches who asked."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HESITATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "serves\n"
        heard = watching.watch()
        assert next(heard).what == "watching"
        heard.close()
        process.stdin.write("\n")
        process.stdin.flush()
        until(lambda: status().pid == process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0


def test_a_daemon_whose_server_dies_ends_at_once_and_leaves_its_place(ended: None, double: Double) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SPOILT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "serves\n"
        with pytest.raises(JitError):  # its thread wakes
            status()
        _, log = process.communicate(timeout=8)  # an idle engine would turn only after ten seconds
    assert process.returncode == 0
    assert "the server's thread has died" in log
    assert Path(jit(double.model(), {}, "cpu").model_lib_path).is_file()


def test_thirty_two_clients_start_one_daemon(double: Double, client: Clients, place: Place) -> None:
    model = double.model()
    assert len(set(client.fleet([model] * 32).paths())) == 1
    assert len(place.daemons()) == starts_logged(place) == 1
    assert len(double.starts()) == 1
    assert [int(lock.read_text()) for lock in place.runtime.glob("*.lock")] == place.daemons()


def test_a_second_daemon_does_not_start(daemon: Daemon, place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mlc_jitd", "run"], capture_output=True, text=True, check=False, timeout=40
    )
    assert done.returncode == 3
    assert f"pid {daemon.pid}" in done.stderr
    assert "Traceback" not in done.stderr
    assert status().pid == daemon.pid


def test_the_socket_of_a_killed_daemon_is_no_obstacle(daemon: Daemon, double: Double, place: Place) -> None:
    daemon.kill()
    assert len(list(place.runtime.glob("*.sock"))) == 1
    jit(double.model(), {}, "cpu")
    assert status().pid != daemon.pid


def test_a_stopped_daemon_is_left_alone_and_used_again(daemon: Daemon, double: Double, client: Clients) -> None:
    model = double.model()
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        path = client.ask(model, MLC_JITD_DAEMON_SILENCE_SECONDS="0.5").path()
        assert Path(path).is_file()
        assert psutil.Process(daemon.pid).status() == psutil.STATUS_STOPPED
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert jit(model, {}, "cpu").model_lib_path == path
    assert status().pid == daemon.pid
    assert len(double.starts()) == 1


def test_a_pipe_ends_although_the_autostarted_daemon_lives_on(double: Double, place: Place, ended: None) -> None:
    program = [sys.executable, "-P", "-m", "mlc_jit", "compile", str(double.model()), "--device", "cpu"]
    compile_ = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    reader = subprocess.Popen(["cat"], stdin=compile_.stdout, stdout=subprocess.PIPE)
    out, _ = reader.communicate(timeout=40)
    assert compile_.stdout is not None
    compile_.stdout.close()
    assert compile_.stderr is not None
    progress = compile_.stderr.read()  # ends too
    compile_.stderr.close()
    assert compile_.wait(5) == 0
    assert Path(out.decode().strip()) == place.artifacts()[0]
    assert b"start" in progress
    assert len(place.daemons()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_an_autostarted_daemon_keeps_nothing_of_its_starter(double: Double, place: Place, client: Clients) -> None:
    inherited, other = os.pipe()
    try:
        client.code(INHERIT, pass_fds=(inherited,), model=double.model(), fd=inherited).answer()
        (daemon,) = place.daemons()
        assert os.getsid(daemon) != os.getsid(0)
        assert psutil.Process(daemon).cwd() == "/"
        assert str(Path(f"/proc/{daemon}/fd/0").readlink()) == "/dev/null"
        kept = set()
        for each in Path(f"/proc/{daemon}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it opens and closes others meanwhile
                kept.add(each.readlink())
        assert kept
        assert Path(f"/proc/self/fd/{inherited}").readlink() not in kept
    finally:
        os.close(inherited)
        os.close(other)


def test_two_homes_have_two_daemons(
    start_daemon: Callable[..., Daemon], double: Double, client: Clients, place: Place
) -> None:
    model = double.model()
    other = str(place.folder("other"))
    first, second = start_daemon(), start_daemon(MLC_LLM_HOME=other)
    paths = [client.ask(model).path(), client.ask(model, MLC_LLM_HOME=other).path()]
    assert [Path(path).parents[1] for path in paths] == [place.cache, Path(other)]
    assert len(double.starts()) == 2
    assert first.stop() == 0
    assert client.ask(model, MLC_LLM_HOME=other).path() == paths[1]
    assert second.stop() == 0


def test_why_a_daemon_could_not_start_reaches_the_client(double: Double, client: Clients, place: Place) -> None:
    place.library.mkdir(parents=True)
    place.library.chmod(0o777)
    error = client.ask(double.model()).error()
    assert error["error"] == "StoreUnwritableError"
    assert str(place.library) in error["text"]
    assert "chmod" in error["text"]


def test_a_slip_in_a_daemons_setting_keeps_nobody_from_a_library(double: Double, client: Clients, place: Place) -> None:
    assert Path(client.ask(double.model(), MLC_JITD_JOBS="many").path()).is_file()
    assert any("MLC_JITD_JOBS='many'" in log.read_text() for log in place.runtime.glob("*.log"))


def test_a_client_never_starts_a_daemon_of_many_users(double: Double, client: Clients, place: Place) -> None:
    """Whatever its environment and its files say: that one is its administrator's to start."""
    place.config.write_text('mode = "system"\n')
    client.ask(double.model(), MLC_JITD_MODE="system").path()
    assert len(place.daemons()) == starts_logged(place) == 1


def test_a_socket_path_that_is_too_long_makes_it_slower_not_broken(
    double: Double, client: Clients, place: Place
) -> None:
    path = client.ask(double.model(), MLC_JITD_SOCKET=str(place.root / ("x" * 110))).path()
    assert Path(path).is_file()
    assert place.daemons() == []


def test_a_daemon_whose_socket_was_taken_away_ends_and_is_replaced(
    daemon: Daemon, double: Double, place: Place
) -> None:
    model = double.model()
    path = jit(model, {}, "cpu").model_lib_path
    (socket,) = place.runtime.glob("*.sock")
    socket.unlink()
    assert jit(model, {}, "cpu").model_lib_path == path
    until(lambda: daemon.process.poll() == 0, what="the old daemon's end")
    assert status().pid != daemon.pid


UNDER_SYSTEMD = """
set -eu
cd /
export TMPDIR=/tmp HOME=/tmp/home MLC_LLM_HOME=/tmp/cache MLC_DOUBLE_LOG=/tmp/double.log
mkdir -p /tmp/m; cp {config} /tmp/m/mlc-chat-config.json
unset XDG_RUNTIME_DIR   # as from cron
{python} -P -m mlc_jit compile /tmp/m --device cpu
{python} -P -m mlc_jit status --json > /tmp/status.json
pid=$({python} -c 'import json; print(json.load(open("/tmp/status.json"))["pid"])')
echo "cgroup $(cat /proc/$pid/cgroup)"
echo "self $(cat /proc/self/cgroup)"
echo "parent $(tr '\\0' ' ' < /proc/$(awk '/^PPid/ {{print $2}}' /proc/$pid/status)/cmdline)"
export XDG_RUNTIME_DIR=/run/user/0
systemctl --user list-units --no-legend 'mlc-jitd-*' | sed 's/^/unit /'
systemctl --user stop 'mlc-jitd-*'
echo "after $({python} -P -m mlc_jit status; echo $?)"
"""


@pytest.mark.timeout(240)
def test_under_a_service_manager_the_daemon_is_a_service(double: Double, place: Place) -> None:
    shell = UNDER_SYSTEMD.format(config="$KEEP/units/config.json", python=sys.executable)
    done = run_under_systemd(place, double, shell)
    said = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
    assert done.returncode == 0, done.stdout + done.stderr
    assert any("/tmp/cache/model_lib/" in line for line in done.stdout.splitlines())
    assert "systemd --user" in said["parent"]
    assert "mlc-jitd-" in said["unit"]
    assert "running" in said["unit"]
    if "mlc-jitd-" not in said["cgroup"]:
        assert said["cgroup"] == said["self"], "no cgroups here, or another's"
    assert said["after"] == "3"
