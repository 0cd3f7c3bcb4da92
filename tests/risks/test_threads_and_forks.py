"""Risk: answers reach the wrong caller, or a connection is used where it must not be: threads, forks, event loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from harness.leftovers import until
from mlc_jit import JitError, ajit, jit

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon
    from harness.doubles import Double


def asked_by(path: str) -> str:
    """What the double was asked when it made a library."""
    facts = json.loads(Path(path).read_bytes().splitlines()[-1])
    return str(facts["overrides"])


def test_eight_threads_at_once_get_each_their_own(start_daemon: Callable[..., Daemon], double: Double) -> None:
    start_daemon(MLC_JITD_JOBS="4", MLC_JITD_CORES_PER_JOB="1")
    model = double.model()
    together = threading.Barrier(8)

    def ask(number: int) -> list[str]:
        together.wait()
        return [jit(model, {"max_batch_size": number}, "cpu").model_lib_path for _ in range(20)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(1, 9)))
    for number, paths in enumerate(found, 1):
        assert len(set(paths)) == 1
        assert f"max_batch_size={number}" in asked_by(paths[0])
    assert len(double.starts()) == 8


def test_a_child_of_a_process_that_has_a_connection(daemon: Daemon, double: Double, client: Clients) -> None:
    found = client.code(
        """
first = jit(given["model"], {}, "cpu").model_lib_path
read, write = os.pipe()
pids = []
for number in range(4):
    if pid := os.fork():
        pids.append(pid)
        continue
    mine = [jit(given["model"], each, "cpu").model_lib_path for each in ({"max_batch_size": number + 1}, {})]
    os.write(write, (json.dumps(mine) + "\\n").encode())
    sys.exit(0)  # an ordinary end: nothing hangs in what was inherited
again = jit(given["model"], {}, "cpu").model_lib_path
ends = [os.waitpid(pid, 0)[1] for pid in pids]
os.close(write)
print(json.dumps([first, again, ends, [json.loads(line) for line in os.fdopen(read).read().splitlines()]]))
""",
        model=double.model(),
    ).answer()
    first, again, ends, children = found
    assert first == again
    assert ends == [0, 0, 0, 0]
    assert {mine for _, mine in children} == {first}
    assert len({own for own, _ in children}) == 4
    assert len(double.starts()) == 5


def test_a_child_forked_while_another_thread_asks(daemon: Daemon, double: Double, client: Clients) -> None:
    gate = double.gate()
    asking = client.code(
        """
jit(given["hit"], {}, "cpu")
begun = open(given["log"]).read().count("start")
box = []
thread = threading.Thread(target=lambda: box.append(jit(given["slow"], {}, "cpu").model_lib_path))
thread.start()
while open(given["log"]).read().count("start") == begun:
    time.sleep(0.01)
if pid := os.fork():
    status = os.waitpid(pid, 0)[1]
    open(given["gate"], "w").close()
    thread.join()
    print(json.dumps([status, box]))
else:
    jit(given["hit"], {}, "cpu")
    os._exit(7)
""",
        slow=double.model("slow", told={"wait_for": gate}),
        hit=double.model(),
        log=double.log,
        gate=gate,
    )
    status, box = asking.answer()
    assert os.waitstatus_to_exitcode(status) == 7
    assert Path(box[0]).is_file()


def test_an_event_loop_goes_on(daemon: Daemon, double: Double) -> None:
    gate = double.gate()
    slow, quick = double.model("slow", told={"wait_for": gate}), double.model("quick")
    jit(quick, {}, "cpu")

    async def main() -> list[str]:
        waiting = asyncio.create_task(ajit(slow, {}, "cpu"))
        while len(double.starts()) < 2:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
        hits = await asyncio.gather(*(ajit(quick, {}, "cpu") for _ in range(20)))
        assert not waiting.done()
        gate.touch()
        return [(await waiting).model_lib_path, *{hit.model_lib_path for hit in hits}]

    found = asyncio.run(main())
    assert len(set(found)) == 2


def test_threads_that_come_and_go_leave_no_connection(daemon: Daemon, double: Double) -> None:
    model = double.model()
    jit(model, {}, "cpu")
    before = psutil.Process().num_fds()
    for _ in range(20):
        thread = threading.Thread(target=jit, args=(model, {}, "cpu"))
        thread.start()
        thread.join()
    until(lambda: psutil.Process().num_fds() <= before + 3, what="connections that end")  # ZeroMQ's thread closes them


def test_an_error_in_one_thread_is_not_anothers(daemon: Daemon, double: Double) -> None:
    good, bad = double.model("good"), double.model("bad", told={"exit": 1})
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        try:
            found[number] = jit(bad if number % 2 else good, {}, "cpu").model_lib_path
        except JitError as error:
            found[number] = type(error).__name__

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {found[number] for number in range(1, 8, 2)} == {"CompileError"}
    assert len({found[number] for number in range(0, 8, 2)}) == 1
