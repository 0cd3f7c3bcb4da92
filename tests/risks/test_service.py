"""Risk: as a service, the daemon is started too often or not at all, is killed while it works, or hangs for ever.

Under a real user manager of systemd, with the files that `mlc-jit service install` writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.systemd import under_systemd

if TYPE_CHECKING:
    from harness.daemons import Place
    from harness.doubles import Double

pytestmark = pytest.mark.timeout(240)  # its turn included

LIFE = """
facts["installed"] = installed()
facts["before"] = [show("ActiveState", SOCKET), show("ActiveState")]
facts["status_before"] = mlc_jit("status").returncode
facts["after_status"] = show("ActiveState")

library(model("first"))
facts["first"] = show("ActiveState")
until(lambda: show("StatusText") == "serving /tmp/cache", "the status text")
status = json.loads(mlc_jit("status", "--json").stdout)
facts["one"] = [status["pid"], main_pid(), len(daemons())]
facts["type"] = open(f"/proc/{main_pid()}/cmdline").read().replace(chr(0), " ")

gate = pathlib.Path("/tmp/gate")
waiting = compiling(model("killed", wait_for=str(gate)))
until(lambda: starts() == 2)
old = main_pid()
os.kill(old, signal.SIGKILL)
until(lambda: show("ActiveState") == "active" and main_pid() not in (0, old), "a restart")
gate.touch()
facts["killed"] = path_of(waiting)
facts["restarts"] = show("NRestarts")

gate.unlink()
slow = model("slow", wait_for=str(gate))
waiting = compiling(slow)
count = starts() + 1
until(lambda: starts() == count)
draining = main_pid()
stopping = subprocess.Popen(["systemctl", "--user", "stop", SERVICE])
until(lambda: show("StatusText").startswith("draining:"))
facts["draining"] = [show("ActiveState"), show("SubState"), show("StatusText")]
during = compiling(model("during"))  # nobody may start another one yet: it asks again until the successor answers
gate.touch()
facts["drained"] = path_of(waiting)
stopping.wait(30)
facts["during"] = path_of(during)
count += 1
# A client that was connected connects again, which may start the next daemon at once.
until(lambda: show("ActiveState") in ("inactive", "active"))
facts["stopped"] = [show("Result"), show("ActiveState", SOCKET)]
facts["ended"] = not os.path.exists(f"/proc/{draining}")
facts["path"] = os.path.exists(show("Listen", SOCKET).split(" (")[0])
facts["again"] = library(slow)
facts["compiles"] = starts() - count
facts["active_again"] = show("ActiveState")
old = main_pid()
facts["stop"] = mlc_jit("stop").stdout
until(lambda: not os.path.exists(f"/proc/{old}"), "the end that `mlc-jit stop` asked for")
until(lambda: show("ActiveState") in ("inactive", "active"))
facts["after_stop"] = [show("ActiveState", SOCKET), show("Result")]
facts["uninstalled"] = mlc_jit("service", "uninstall").stdout
facts["left"] = os.listdir("/tmp/home/.config/systemd/user")
"""


def test_activation_restart_drain_and_a_socket_that_stays(double: Double, place: Place) -> None:
    facts = under_systemd(place, double, LIFE)
    assert facts["before"] == ["active", "inactive"], facts["installed"]
    assert (facts["status_before"], facts["after_status"]) == (3, "inactive"), "a status starts nothing"
    assert facts["first"] == "active"
    pid, main, count = facts["one"]
    assert (pid, count) == (main, 1)
    assert "--on-demand" in facts["type"]
    assert facts["killed"].startswith("/tmp/cache/model_lib/")
    assert facts["restarts"] == "1"
    assert facts["draining"] == ["deactivating", "stop-sigterm", "draining: 1 running, 0 queued"]
    assert facts["during"].startswith("/tmp/cache/model_lib/")
    assert facts["stopped"] == ["success", "active"]
    assert facts["ended"]
    assert facts["path"]
    assert (facts["again"], facts["compiles"], facts["active_again"]) == (facts["drained"], 0, "active")
    assert facts["after_stop"] == ["active", "success"], facts["stop"]
    assert "removed" in facts["uninstalled"]
    assert not [name for name in facts["left"] if name.endswith((".socket", ".service"))]


WATCHDOG = """
hang = pathlib.Path("/tmp/hang.py")
hang.write_text('''
import os, signal, time
from mlc_jitd.life import Life
from mlc_jitd.__main__ import main
tick = Life.tick
def tick_or_hang(life):
    while os.path.exists("/tmp/hang-server"):
        time.sleep(0.1)
    return tick(life)
Life.tick = tick_or_hang
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(3600))  # the main thread is the engine's
main(["run", "--on-demand"])
''')
installed()
override(WatchdogSec="3", TimeoutAbortSec="3", ExecStart=f"\\nExecStart={sys.executable} -P {hang}")
entry = model("entry")
facts["path"] = library(entry)
facts["found"] = []

def restarted(old):
    until(lambda: show("ActiveState") == "active" and main_pid() not in (0, old), "a restart by the watchdog")
    return library(entry)

for how in ("engine", "server", "all"):
    old = main_pid()
    before = int(show("NRestarts"))
    if how == "engine":
        os.kill(old, signal.SIGUSR1)
    elif how == "server":
        pathlib.Path("/tmp/hang-server").touch()
    else:
        os.kill(old, signal.SIGSTOP)
    until(lambda: not os.path.exists(f"/proc/{old}"), how)
    pathlib.Path("/tmp/hang-server").unlink(missing_ok=True)
    facts["found"].append([how, restarted(old), int(show("NRestarts")) - before])
old = main_pid()
def fed():
    return int(show("WatchdogTimestampMonotonic"))
begun = fed()
until(lambda: fed() - begun > 5_000_000, "a healthy one that is fed for longer than the watchdog waits")
facts["healthy"] = main_pid() == old
"""


def test_a_loop_that_hangs_is_restarted_by_the_watchdog(double: Double, place: Place) -> None:
    facts = under_systemd(place, double, WATCHDOG)
    assert facts["found"] == [[how, facts["path"], 1] for how in ("engine", "server", "all")]
    assert facts["healthy"]


BESIDE = """
entry = model("entry")
facts["path"] = library(entry)                    # a client starts a daemon by itself
(first,) = daemons()
gate = pathlib.Path("/tmp/gate")
waiting = compiling(model("slow", wait_for=str(gate)))
until(lambda: starts() == 2)
installed()                                       # systemd takes the path
facts["from_the_new_one"] = library(entry)
until(lambda: main_pid() not in (0, first), "the activated daemon")
gate.touch()
facts["waited"] = path_of(waiting)
until(lambda: not os.path.exists(f"/proc/{first}"), "the end of the first daemon")
facts["one"] = [daemons() == [main_pid()], show("ActiveState")]

systemctl("stop", SERVICE, SOCKET)                # installed, not started: a client has it started
facts["stopped"] = len(daemons())
facts["autostarted"] = library(entry)
facts["by_the_unit"] = [daemons() == [main_pid()], show("ActiveState", SOCKET)]

os.kill(main_pid(), signal.SIGHUP)
reload = subprocess.run(["systemctl", "--user", "reload", SERVICE]).returncode
facts["reload"] = [reload, show("ActiveState")]

os.unlink(show("Listen", SOCKET).split(" (")[0])  # a cleaner of /tmp: the daemon leaves, the next one has a path again
until(lambda: show("ActiveState") == "inactive", "the daemon whose path is gone")
facts["without_a_path"] = library(entry)
facts["still_one"] = [len(daemons()), main_pid() in daemons()]
"""


def test_beside_an_installed_unit_there_is_one_daemon(double: Double, place: Place) -> None:
    facts = under_systemd(place, double, BESIDE)
    assert facts["from_the_new_one"] == facts["path"]
    assert facts["waited"].startswith("/tmp/cache/")
    assert facts["one"] == [True, "active"]
    assert facts["stopped"] == 0
    assert facts["autostarted"] == facts["path"]
    assert facts["by_the_unit"] == [True, "active"]
    assert facts["reload"] == [0, "active"]
    assert facts["without_a_path"] == facts["path"]
    assert facts["still_one"] == [1, True]


MEMORY = """
installed()
library(model("like"))  # else a compile of which nothing is known takes all memory, and waits for it
override(MemoryMax="400M", MemorySwapMax="0")
systemctl("stop", SERVICE)
library(model("small"))
old = main_pid()
facts["limit"] = show("MemoryMax")
waiting = compiling(model("large", memory=900))
out, err = waiting.communicate(timeout=60)
facts["large"] = [waiting.returncode, err]
facts["same"] = [main_pid() == old, show("NRestarts"), show("ActiveState")]
facts["after"] = library(model("after"))
group = open(f"/proc/{old}/cgroup").read()
facts["group"] = group
"""


def test_a_memory_limit_of_the_service_bites_the_compile(double: Double, place: Place) -> None:
    facts = under_systemd(place, double, MEMORY)
    code, err = facts["large"]
    assert facts["limit"] == str(400 << 20)
    assert code == 1, facts
    assert "memory" in err
    assert facts["same"] == [True, "0", "active"]
    assert facts["after"].startswith("/tmp/cache/")


BROKEN = """
installed()
systemctl("stop", SOCKET)
unit = pathlib.Path("/tmp/home/.config/systemd/user", SERVICE)
unit.write_text(unit.read_text().replace("ExecStart=", "ExecStart=/gone"))
systemctl("daemon-reload")
entry = model("entry")
facts["started"] = library(entry)                 # nobody listened: a daemon is started without the unit
facts["one"] = len(daemons())
mlc_jit("stop", "--now")
until(lambda: not daemons())
systemctl("reset-failed", SERVICE, SOCKET)
systemctl("start", SOCKET)
begun = time.monotonic()
facts["listening"] = mlc_jit("compile", entry, "--device", "cpu").stdout.strip()
facts["seconds"] = time.monotonic() - begun
findings = json.loads(mlc_jit("doctor", "--json").stdout)["findings"]
facts["doctor"] = [each for each in findings if each["check"] == "service"]
"""


def test_a_unit_that_can_not_start_keeps_nobody_from_a_library(double: Double, place: Place) -> None:
    facts = under_systemd(place, double, BROKEN)
    assert facts["started"].startswith("/tmp/cache/")
    assert facts["one"] == 1
    assert facts["listening"] == facts["started"], facts
    assert facts["doctor"][0]["level"] in ("problem", "note"), facts["doctor"]
    assert "is gone" in facts["doctor"][0]["found"]
