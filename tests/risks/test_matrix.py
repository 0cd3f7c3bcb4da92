"""Risk: threads, forks and event loops in one process cross answers, hang or leak, under load and beside compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import correlation

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

ROUNDS, THREADS, CHILDREN, QUESTIONS = 12, 3, 3, 4

WORK = (
    correlation.NOTE
    + """
import asyncio, random
model, rounds = given["model"], given["rounds"]
questions = range(1, given["questions"] + 1)

def ask(number):
    return jit(model, {"max_batch_size": number}, "cpu").model_lib_path

def call(number):
    return JITCall(model, {"max_batch_size": number}, "cpu")

def in_order(who):
    order = list(questions) * rounds
    random.Random(who).shuffle(order)
    for number in order:
        note(who, number, ask(number))

def in_batches(who):
    for _ in range(rounds):
        order = list(questions)
        random.Random(who).shuffle(order)
        for number, got in zip(order, jit_many(map(call, order))):
            note(who, number, got.model_lib_path)

def in_a_loop(who):
    async def one(number):
        note(who, number, (await ajit(model, {"max_batch_size": number}, "cpu")).model_lib_path)
    async def main():
        for _ in range(rounds):
            await asyncio.gather(*map(one, questions))
    asyncio.run(main())

ways = {"jit": in_order, "jit_many": in_batches, "ajit": in_a_loop}

def crowd(name):
    \"\"\"Every way at once, each in threads of its own.\"\"\"
    threads = [
        threading.Thread(target=way, args=(f"{name} {label} {number}",))
        for label, way in ways.items() if label in given["ways"] for number in range(given["threads"])
    ]
    for thread in threads:
        thread.start()
    return threads

def join(threads):
    for thread in threads:
        thread.join()

def fork(number):
    pid = os.fork()
    if pid == 0:
        try:
            join(crowd(f"child {number}"))
        except BaseException:
            os._exit(1)
        os._exit(0)
    return pid

pids, threads = [], []
when = given["when"]
if when == "after use":
    ask(1)
    asyncio.run(ajit(model, {"max_batch_size": 1}, "cpu"))
if when == "in the middle":
    threads = crowd("parent")
    ask(1)
if when != "never":
    pids = [fork(number) for number in range(given["children"])]
threads = threads or crowd("parent")
join(threads)
print(json.dumps([os.waitpid(pid, 0)[1] for pid in pids]))
"""
)


@pytest.mark.parametrize(
    ("when", "ways"),
    [
        ("never", ["jit", "jit_many", "ajit"]),
        ("before use", ["jit", "ajit"]),
        ("after use", ["jit", "jit_many", "ajit"]),
        ("in the middle", ["jit", "ajit"]),
    ],
)
@pytest.mark.timeout(60)
def test_every_answer_reaches_who_asked(
    when: str,
    ways: list[str],
    start_daemon: Callable[..., Daemon],
    double: Double,
    client: Clients,
    place: Place,
) -> None:
    start_daemon(MLC_JITD_JOBS="4", MLC_JITD_CORES_PER_JOB="1")
    notes = correlation.new(place.root)
    ends = client.code(
        WORK, {"PYTHONWARNINGS": "ignore::DeprecationWarning"}, notes=notes.notes, model=double.model(), when=when,
        ways=ways, rounds=ROUNDS, threads=THREADS, children=CHILDREN, questions=QUESTIONS,
    ).answer(50)  # fmt: skip
    assert not any(ends)
    askers = (len(ends) + 1) * len(ways) * THREADS
    notes.check(answers=askers * ROUNDS * QUESTIONS, askers=askers)
    assert len(double.starts()) == QUESTIONS


SHUTDOWN = """
import signal
thread = threading.Thread(target=lambda: jit(given["slow"], {}, "cpu"), daemon=True)
thread.start()
while not os.path.exists(given["log"]) or "start" not in open(given["log"]).read():
    time.sleep(0.01)
print(json.dumps("over"))
"""


def test_a_program_ends_although_a_daemon_thread_of_it_waits(daemon: Daemon, double: Double, client: Clients) -> None:
    gate = double.gate()
    ending = client.code(SHUTDOWN, slow=double.model("slow", told={"wait_for": gate}), log=double.log)
    assert ending.answer(15) == "over"
    gate.touch()


LOOP_ENDS = """
import asyncio
async def main():
    task = asyncio.create_task(ajit(given["slow"], {}, "cpu"))
    while not os.path.exists(given["log"]) or "start" not in open(given["log"]).read():
        await asyncio.sleep(0.01)
asyncio.run(main())  # which cancels what still waits
print(json.dumps([jit(given["quick"], {}, "cpu").model_lib_path, threading.active_count()]))
"""


def test_a_loop_ends_although_a_task_of_it_waits(daemon: Daemon, double: Double, client: Clients) -> None:
    gate = double.gate()
    slow, quick = double.model("slow", told={"wait_for": gate}), double.model("quick")
    client.ask(quick).path()
    double.log.unlink()
    path, threads = client.code(LOOP_ENDS, slow=slow, quick=quick, log=double.log).answer(15)
    assert path
    assert threads == 1
    gate.touch()


CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
def press():
    while not os.path.exists(given["log"]) or "start" not in open(given["log"]).read():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press).start()
import asyncio
ask = {
    "jit": lambda: jit(given["slow"], {}, "cpu"),
    "jit_many": lambda: jit_many([(given["slow"], {}, "cpu")] * 3),
    "ajit": lambda: asyncio.run(ajit(given["slow"], {}, "cpu")),
}[given["way"]]
began = time.monotonic()
try:
    ask()
except KeyboardInterrupt:
    print(json.dumps("interrupted"))
"""


@pytest.mark.parametrize("way", ["jit", "jit_many", "ajit"])
def test_ctrl_c_ends_a_wait_at_once(way: str, daemon: Daemon, double: Double, client: Clients) -> None:
    gate = double.gate()
    slow = double.model("slow", told={"wait_for": gate})
    assert client.code(CTRL_C, slow=slow, log=double.log, way=way).answer(15) == "interrupted"
    gate.touch()
