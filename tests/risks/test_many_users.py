"""Risk: one user of a shared daemon runs code as it, reads what is another's, or takes what is everybody's.

Two real uids, a real daemon, real sockets. docs/security.md states what is shown here.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.daemons import until
from harness.users import Host, User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.daemons import Daemon, Place
    from harness.doubles import Double

pytestmark = [
    pytest.mark.skipif(
        os.getuid() != 0 or not sys.platform.startswith("linux"), reason="only root on Linux can become several users"
    ),
    pytest.mark.timeout(40),
]

ALICE, BOB, EVE, MODELS = 54321, 54322, 54323, 60001
SECRET = "zanzibar"


@pytest.fixture
def host(place: Place, double: Double, start_daemon: Callable[..., Daemon]) -> Iterator[Host]:
    folder = place.folder("s")
    folder.chmod(0o755)
    found = Host(place, double, start_daemon, folder / "s")
    yield found
    found.end()


@pytest.fixture
def alice(host: Host) -> User:
    return host.user(ALICE, MODELS)


@pytest.fixture
def bob(host: Host) -> User:
    return host.user(BOB, MODELS)


def test_who_is_listed_is_served_and_nobody_else(host, alice, bob):
    host.serve(users=[str(ALICE)])
    model = alice.model()
    path = Path(alice.ask(model).path())
    assert path.parent == host.cache / "model_lib", "the host's cache, not the user's own"
    refused = bob.ask(bob.model()).error()
    assert refused["error"] == "AccessRefusedError"
    assert f"uid {BOB} may not use" in refused["text"]
    assert "`users`" in refused["text"]


def test_a_supplementary_group_lets_in(host, alice):
    host.serve(users=[f"@{MODELS}"])
    assert alice.ask(alice.model()).path()
    eve = host.user(EVE)
    assert eve.ask(eve.model()).error()["error"] == "AccessRefusedError"


def test_without_the_variable_require_whoever_is_refused_works_in_a_home_of_their_own(host):
    host.serve(users=[str(ALICE)])
    eve = host.user(EVE)
    code, out, _ = eve.code(
        "locations.locate(); print(json.dumps([0, str(locations.locate().socket), str(locations.locate().home)]))"
    ).answer()
    assert (code, out) == (0, str(host.socket))
    host.socket.chmod(0o600)  # as a unit with SocketMode=0660 does for who is not in its group
    _, out, _ = eve.code("print(json.dumps([0, str(locations.locate().socket), '']))").answer()
    assert out.startswith(str(eve.home)), "who can't connect has a daemon of their own"


def test_an_own_daemon_comes_first(host, alice):
    host.serve(users=[str(ALICE)])
    said = alice.code(
        """
first = locations.locate()
first.runtime.joinpath(first.lock.with_suffix(".sock").name).touch()
locations._last = None
print(json.dumps([first.system, locations.locate().system]))
"""
    ).answer()
    assert said == [True, False]


def test_a_socket_that_anybody_could_have_put_there_is_not_trusted(host, alice, bob):
    """Whoever answers decides what code the asker runs."""
    folder = host.place.folder("open")
    folder.chmod(0o777)
    alice.variables["MLC_JITD_SYSTEM"] = str(folder / "s")
    listening = bob.code(
        """
s = socket.socket(socket.AF_UNIX)
s.bind(given["at"])
os.chmod(given["at"], 0o666)
s.listen()
print(json.dumps(True), flush=True)
s.accept()
time.sleep(20)
""",
        at=folder / "s",
    )
    until((folder / "s").exists, what="bob's socket")
    until(lambda: stat.S_IMODE((folder / "s").stat().st_mode) == 0o666, what="its mode")
    open_to_all = alice.ask(alice.model()).error()
    folder.chmod(0o755)
    of_another = alice.ask(alice.model()).error()
    listening.kill()
    for error in (open_to_all, of_another):
        assert error["error"] == "AccessRefusedError"
        assert "not trusted" in error["text"]
    assert f"uid {BOB} listens there" in of_another["text"]


def test_roles(host, alice, bob):
    host.serve(users=[str(ALICE)], prewarmers=[str(BOB)], admins=["root"])
    model = alice.model()
    path = Path(alice.ask(model).path())
    key = path.name.partition("-")[0]
    for words in (["stop"], ["cancel", "abcd"], ["pin", key]):
        code, _, err = alice.command(*words)
        assert code != 0
        assert f"uid {ALICE} may not" in err, err
    wanted = alice.code(
        """
from mlc_jit.request import make_request
s = connected()
s.send(m.encode(__import__("dataclasses").replace(make_request(given["model"], {"max_batch_size": 3}, "cpu", None,
    policy="ON", prewarm=True), id=7)))
said = hear(s)
print(json.dumps([said.verb, said.message]))
""",
        model=model,
    ).answer()
    assert wanted[0] == "error"
    assert "`prewarmers`" in wanted[1]
    code, out, err = bob.command("pin", key)
    assert code == 0, err
    code, out, err = bob.command("list")
    assert "pinned" in out, out
    code, _, err = bob.command("pin", str(bob.model()), "--device", "cpu")
    assert code == 0, err  # the same configuration: another folder is no other library
    assert bob.command("unpin", key)[0] == 0
    code, out, err = bob.command("status")
    assert code == 0, err
    assert "1 library" in out
    assert bob.command("stop")[0] != 0


def test_the_administrator_stops_it(host, alice):
    daemon = host.serve(users=[str(ALICE)], admins=[str(ALICE)])
    assert alice.command("stop")[0] == 0
    assert daemon.process.wait(40) == 0


def test_what_a_client_names_is_never_executed(host, alice):
    """Interpreter, PYTHONPATH, PATH, compilers and flags are the administrator's."""
    host.serve(users=[str(ALICE)])
    marker = alice.home / "executed"
    evil = alice.home / "evil"
    evil.mkdir()
    tool = evil / "python3"
    tool.write_text(f"#!/bin/sh\ntouch {marker}\n")
    tool.chmod(0o755)
    for name in ("gcc", "cc", "ld", "nvcc", "g++"):
        (evil / name).write_text(tool.read_text())
        (evil / name).chmod(0o755)
    (evil / "sitecustomize.py").write_text(f"open({str(marker)!r}, 'w')")
    (evil / "mlc_llm.py").write_text(f"open({str(marker)!r}, 'w')")
    alice.home.chmod(0o755)
    named = {name: str(tool) for name in ("MLC_JITD_PYTHON", "CC", "CXX", "TVM_NDK_CC")}
    places = dict.fromkeys(("PYTHONPATH", "PATH", "LD_LIBRARY_PATH", "PYTHONUSERBASE", "CUDA_HOME"), str(evil))
    plain = alice.ask(alice.model()).path()
    alice.variables |= named | {"MLC_JITD_PASS_ENV": "PYTHONSTARTUP,LD_PRELOAD", "COMPILER_PATH": str(evil)}
    again = alice.code(
        "os.environ.update(given['places'])\nprint(json.dumps(answer(lambda: jit(*given['ask']).model_lib_path)))",
        places={**places, "LD_PRELOAD": str(tool)},
        ask=[alice.home / "tiny", {}, "cpu"],
    ).path()
    assert again == plain, "none of it is part of the key"
    assert not marker.exists()


@pytest.mark.parametrize(
    ("variables", "device", "said"),
    [
        ({"NVCC_APPEND_FLAGS": "-ccbin /tmp/evil"}, "cpu", "client_variables"),
        ({"MLC_MULTI_ARCH": "/tmp/evil"}, "cpu", "MLC_MULTI_ARCH"),
        ({}, '{"kind": "llvm", "mcpu": "core2", "cl-opt": ["-info-output-file=/tmp/x"]}', "cl-opt"),
        ({}, "llvm -cl-opt=-info-output-file=/tmp/x", "device"),
    ],
)
def test_what_could_lead_to_a_program_or_file_is_refused(host, alice, variables, device, said):
    host.serve(users=[str(ALICE)])
    alice.variables |= variables
    error = alice.code(
        "print(json.dumps(answer(lambda: jit(given['model'], {}, given['device']).model_lib_path)))",
        model=alice.model(),
        device=device,
    ).error()
    assert error["error"] in ("RequestError", "DeviceInvalidError")
    assert said in error["text"]


def test_a_named_toolchain_is_chosen_by_its_name(host, alice):
    marker = host.double.log
    python = {"python": sys.executable}
    environment = {**host.double.environment(), "MLC_DOUBLE_ARCH": "sm_99"}
    environment.pop("MLC_JITD_PASS_ENV")
    host.place.config.write_text("")
    lines = json.dumps(
        {"first": python | {"environment": host.double.environment()}, "other": python | {"environment": environment}}
    )
    host.serve(users=[str(ALICE)], toolchains=lines)
    first = alice.ask(alice.model()).path()
    alice.variables["MLC_JITD_PYTHON"] = "other"
    assert alice.ask(alice.home / "tiny").path()
    assert marker.exists()
    alice.variables["MLC_JITD_PYTHON"] = "/nowhere/python"
    assert alice.ask(alice.home / "tiny").path() == first, "who names none of them has the first"


def test_a_forged_pid_or_uid_has_no_effect(host, alice):
    host.serve(users=[str(ALICE)])
    said = alice.code(
        """
import msgpack
from mlc_jit.request import make_request
request = make_request(given["model"], {}, "cpu", None, policy="ON")
fields = msgpack.unpackb(m.encode(request), unicode_errors="surrogateescape")
fields |= {"id": 9, "uid": 0, "gid": 0, "pid": 1, "roles": 7, "peer": {"uid": 0}, "user": "root"}
s = connected()
s.send(msgpack.packb(fields))
while (reply := hear(s, 15)).verb == "heartbeat": pass
s.send(msgpack.packb({"verb": "stop", "id": 10, "now": True, "uid": 0, "pid": 1, "roles": 7}))
refused = hear(s)
t = zmq.Context.instance().socket(zmq.DEALER)
t.setsockopt(zmq.LINGER, 0)
t.setsockopt(zmq.ROUTING_ID, b"inner0")  # a connection that gives itself a name
t.connect(f"ipc://{locations.locate().socket}")
t.send(m.encode(m.StatusRequest(id=11)))
named = hear(t)
print(json.dumps([reply.verb, refused.verb, refused.message, named.verb, os.getpid()]))
""",
        model=alice.model(),
    ).answer()
    assert said[:2] == ["result", "error"]
    assert f"uid {ALICE} may not" in said[2]
    assert said[3] == "error"
    (line,) = host.audit()
    assert (line["uid"], line["pid"], line["outcome"]) == (ALICE, said[4], "compiled")
    assert line["model"].endswith("/tiny")
    assert stat.S_IMODE((host.cache / "audit.jsonl").stat().st_mode) == 0o600


LISTEN = """
frames = []
real = zmq.Socket.recv
def recv(self, *a, **k):
    frame = real(self, *a, **k)
    frames.append(bytes(frame) if isinstance(frame, bytes) else frame.bytes)
    return frame
zmq.Socket.recv = recv
"""


def test_no_path_of_one_user_is_told_to_another(host, alice, bob):
    """In no reply, and in no file that another may read: a failed compile of the same configuration is joined, too."""
    host.serve(users=[f"@{MODELS}"])
    folder = alice.home / SECRET
    folder.mkdir()
    os.chown(folder, ALICE, ALICE)
    alice.home.chmod(0o755)
    gate = host.place.root / "gate"
    good = alice.model(f"{SECRET}/good")
    slow = alice.model(f"{SECRET}/slow", {"wait_for": str(gate)}, vocab_size=7)
    bad = alice.model(f"{SECRET}/bad", {"raise": "no such thing"}, vocab_size=8)
    alice.ask(good).path()
    alice.ask(bad).error()
    waiting = alice.ask(slow)
    until(lambda: len(host.double.starts()) == 3, what="the third compile")
    heard = bob.code(
        LISTEN
        + """
from mlc_jit.request import make_request
s = connected()
s.send(m.encode(m.Hello()))
hear(s)
def ask(message):
    s.send(m.encode(message))
    while (reply := hear(s, 10)) is not None and reply.verb in ("heartbeat", "progress", "event"): pass
    return reply
def asked(folder, id_, policy="ON"):
    import dataclasses
    return dataclasses.replace(make_request(folder, {}, "cpu", None, policy=policy, progress=True), id=id_)
verbs = []
s.send(m.encode(m.WatchRequest(id=1)))
for number, message in enumerate([m.StatusRequest(id=2), m.ListRequest(id=3)], 2):
    verbs.append(ask(message).verb)
for number, name in enumerate(given["models"]):
    verbs.append(ask(m.Explain(id=20 + number, request=asked(name, 0))).verb)
verbs.append(ask(asked(given["models"][0], 30, "READONLY")).verb)
verbs.append(ask(asked(given["models"][1], 31)).verb)
s.send(m.encode(asked(given["models"][2], 32)))
time.sleep(0.3)
open(given["gate"], "w")
while (reply := hear(s, 10)).verb in ("heartbeat", "progress", "event"): pass
verbs.append(reply.verb)
readable = b""
for top, _, names in os.walk(given["cache"]):
    for name in names:
        with contextlib.suppress(OSError):
            readable += name.encode() + open(os.path.join(top, name), "rb").read()
found = b"".join(frames) + readable
print(json.dumps([verbs, given["secret"].encode() in found, len(frames), len(readable)]))
""",
        secret=SECRET,
        cache=host.cache,
        gate=gate,
        models=[
            bob.model("good"),
            bob.model("bad", {"raise": "no such thing"}, vocab_size=8),
            bob.model("slow", {"wait_for": str(gate)}, vocab_size=7),
        ],
    )
    host.place.root.chmod(0o777)  # the gate is made by a user
    verbs, told, frames, readable = heard.answer(30)
    waiting.path()
    assert verbs == ["status-is", "listing", "explained", "explained", "explained", "result", "error", "result"]
    assert not told
    assert frames > 8
    assert readable > 1000, "manifests and libraries are for everybody"
    log = host.place.root / "daemon.log"
    assert SECRET not in log.read_text()
    assert any(SECRET in line["model"] for line in host.audit()), "the administrator knows"


def test_each_user_sees_their_own_work_and_the_administrator_all_of_it(host, alice, bob):
    host.serve(users=[f"@{MODELS}"])
    bad = alice.model("bad", {"raise": f"no such thing as {SECRET}"}, vocab_size=8)
    assert SECRET in alice.ask(bad).error()["text"]
    bob.ask(bob.model()).path()
    for user, own in ((alice, "failed"), (bob, "compiled")):
        code, out, err = user.command("top", "--json")
        assert code == 0, err
        recent = {each["what"]: each for each in json.loads(out)["recent"]}
        assert set(recent) == {"failed", "compiled"}, "slots and queue are shared: that there was work is told"
        assert {what for what, each in recent.items() if each["pid"]} == {own}, "but not whose"
        assert (SECRET in out) is (user is alice)
        records = user.code(RECORDS).answer()
        assert [(job["ending"]["outcome"], [wait["who"]["uid"] for wait in job["waiters"]]) for job in records] == [
            (own, [user.uid])
        ]
    admin = host.user(0)
    assert [job["ending"]["outcome"] for job in admin.code(RECORDS).answer()] == ["failed", "compiled"]
    code, out, err = admin.command("history")
    assert code == 0, err
    assert SECRET in out, "of a home of one's own and of the host's daemon"
    assert f"Of the host's daemon ({host.socket})" in out


RECORDS = """
s = connected()
s.send(m.encode(m.RecordsRequest(id=5, ended=True)))
jobs = []
while (reply := hear(s)) is not None:
    jobs += [json.loads(line)["job"] for line in reply.jobs]
    if not reply.more: break
print(json.dumps(jobs))
"""


def test_looking_again_and_again_is_no_waiting(host, alice):
    """What is answered at once is not counted as a question on its way."""
    host.serve(users=[str(ALICE)], admins=[str(ALICE)])
    said = alice.code(
        """
s = connected()
verbs = []
for number in range(1, 25):
    for kind in (m.TopRequest, m.RecordsRequest):
        s.send(m.encode(kind(id=number)))
        verbs.append(hear(s).verb)
print(json.dumps(sorted(set(verbs))))
"""
    ).answer()
    assert said == ["records-are", "top-is"]


def test_nobody_writes_what_others_load(host, alice, bob):
    host.serve(users=[f"@{MODELS}"])
    path = Path(alice.ask(alice.model()).path())
    tried = bob.code(
        """
path = given["path"]
def fails(call):
    try: call()
    except PermissionError: return True
    return False
data = open(path, "rb").read()
tries = {
    "write": lambda: open(path, "r+b"), "unlink": lambda: os.unlink(path),
    "rename": lambda: os.rename(path, path + "x"),
    "chmod": lambda: os.chmod(path, 0o777), "link": lambda: os.symlink("/etc/passwd", os.path.dirname(path) + "/x"),
    "new": lambda: open(os.path.dirname(path) + "/new", "w"), "mkdir": lambda: os.mkdir(given["cache"] + "/new"),
    "socket": lambda: os.unlink(given["socket"]), "audit": lambda: open(given["cache"] + "/audit.jsonl"),
}
for name in os.listdir(os.path.dirname(path)):
    if name.startswith(".") and os.path.isdir(os.path.dirname(path) + "/" + name):
        tries[name] = lambda name=name: os.listdir(os.path.dirname(path) + "/" + name)
print(json.dumps([len(data), sorted(tries), sorted(name for name, each in tries.items() if not fails(each))]))
""",
        path=path,
        cache=host.cache,
        socket=host.socket,
    ).answer()
    assert tried[0] == path.stat().st_size
    assert {".locks", ".logs", ".staging", ".identity", "write"} <= set(tried[1])
    assert tried[2] == []


def test_planted_files_and_links_are_refused(host, alice, bob):
    """A file of another owner, one that others may write, a link: none of them is handed out, whatever it holds."""
    host.serve(users=[f"@{MODELS}"])
    paths = {}
    for number, name in enumerate(("owner", "writable", "link")):
        paths[name] = Path(alice.ask(alice.model(name, vocab_size=20 + number)).path())
    os.chown(paths["owner"], BOB, BOB)
    paths["writable"].chmod(0o666)
    planted = bob.home / "planted.so"
    planted.write_bytes(paths["link"].read_bytes())
    paths["link"].unlink()
    paths["link"].symlink_to(planted)
    before = len(host.double.starts())
    for name, path in paths.items():
        said = bob.ask(alice_like(bob, name, 20 + list(paths).index(name))).answer()
        assert "error" in said or Path(said["result"]).lstat().st_uid == 0, (name, said)
        if "result" in said:
            about = Path(said["result"]).lstat()
            assert stat.S_ISREG(about.st_mode)
            assert stat.S_IMODE(about.st_mode) == 0o444, (name, path)
    assert len(host.double.starts()) >= before


def alice_like(user: User, name: str, vocab_size: int) -> Path:
    return user.model(name, vocab_size=vocab_size)


def test_one_user_fills_neither_the_queue_nor_the_disk(host, alice, bob):
    host.serve(users=[f"@{MODELS}"], user_jobs=3, user_bytes="64 KiB", jobs=1)
    gate = host.place.root / "gate"
    alice.variables["MLC_JITD_BUSY_SECONDS"] = "0"
    clients = [alice.ask(alice.model(f"m{n}", {"wait_for": str(gate)}, vocab_size=30 + n)) for n in range(5)]
    until(lambda: sum(each.process.poll() is not None for each in clients) == 2, what="two that were refused")
    answers = [each.error() for each in clients if each.process.poll() is not None]
    assert {each["error"] for each in answers} == {"BusyError"}
    assert all("3 may" in each["text"] for each in answers)
    other = bob.ask(bob.model("mine", vocab_size=50))
    until(lambda: "1 running on 1 slot, 3 queued" in bob.command("status")[1], what="bob's place in the queue")
    gate.touch()
    assert other.path()
    for each in clients:
        if each not in answers:
            each.process.wait(40)
    big = alice.ask(alice.model("big", {"size": 128 << 10}, vocab_size=60))
    assert big.path()
    refused = alice.ask(alice.model("more", vocab_size=61)).error()
    assert "within a day" in refused["text"]
    assert "user_bytes" in refused["text"]
    assert bob.ask(bob.model("his", vocab_size=61)).path(), "what one user may no more, another may"
    assert alice.ask(alice.home / "more").path(), "and what is there is everybody's"


def test_the_books_outlive_the_daemon(host, alice):
    daemon = host.serve(users=[f"@{MODELS}"], user_bytes="64 KiB")
    assert alice.ask(alice.model("big", {"size": 128 << 10})).path()
    assert daemon.stop() == 0
    host.serve(users=[f"@{MODELS}"], user_bytes="64 KiB")
    assert "within a day" in alice.ask(alice.model("more", vocab_size=61)).error()["text"]


def test_a_slip_in_the_settings_is_no_open_door(host):
    for slip in ({"user": ["root"]}, {"users": "a b"}, {"toolchains": "nothing"}, {"admins": 'x"y'}):
        with pytest.raises(AssertionError, match="did not start"):
            host.serve(**slip)


def test_an_interpreter_that_others_may_write_is_refused(host):
    folder = host.place.folder("open")
    folder.chmod(0o777)
    python = folder / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    with pytest.raises(AssertionError, match="not safe to run for others"):
        host.serve(toolchains=json.dumps({"open": str(python)}))


def test_a_virtual_environment_of_somebody_else_is_refused(host):
    """Its interpreter is root's, and its packages are whoever's folder it is."""
    folder = host.place.folder("theirs")
    (folder / "python").symlink_to(Path(sys.executable).resolve())
    os.chown(folder, ALICE, ALICE)
    with pytest.raises(AssertionError, match=f"theirs belongs to uid {ALICE}"):
        host.serve(toolchains=json.dumps({"theirs": str(folder / "python")}))


def test_roles_change_while_it_runs(host, alice):
    daemon = host.serve(users=[str(BOB)])
    assert alice.ask(alice.model()).error()["error"] == "AccessRefusedError"
    text = host.place.config.read_text()
    host.place.config.write_text(text.replace(str(BOB), str(ALICE)))
    daemon.process.send_signal(1)
    until(lambda: "users: " in daemon.log.read_text(), what="the reload")
    assert alice.ask(alice.home / "tiny").path()
