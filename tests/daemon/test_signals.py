"""Risk: a main thread that waits for work without a limit does not hear a signal that another thread got."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import os, queue, signal, sys, threading
from mlc_jitd.signals import Signals
inbox = queue.SimpleQueue()
signal.signal(signal.SIGUSR1, lambda *_: inbox.put("heard"))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # as if it came to another thread, or a moment too early
def other():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    threading.Event().wait()
threading.Thread(target=other, daemon=True).start()
with Signals(lambda: inbox.put("awake")):
    print("ready", flush=True)
    heard = 0
    while heard < 20:
        if inbox.get() == "heard":
            heard += 1
            print(heard, flush=True)
print(threading.active_count(), signal.set_wakeup_fd(-1), flush=True)
"""


def test_a_waiting_main_thread_hears_what_another_thread_got() -> None:
    with subprocess.Popen([sys.executable, "-P", "-c", CODE], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            for number in range(1, 21):
                child.send_signal(10)
                assert child.stdout.readline() == f"{number}\n"
            assert child.stdout.readline() == "2 -1\n", "its thread has ended, and what it changed is as before"
        finally:
            child.kill()
