"""Carries out the broker's instructions, in one thread; what a daemon's other rooms hook into.

    engine      the whole: what other rooms and threads call, the thread's turns, the daemon's end
    requests    from a question to its reply
    jobs        from a job's admission to its end
    views       the status and the listing
    ledger      requests, jobs and libraries on their way: what the rooms above share
    inbox       events of all threads, one after the other
    outbox      replies, to connections and to the daemon itself
    onlookers   rooms that follow what happens

Nothing here decides who gets what (``broker``), who runs when (``schedule``), or how a library is made (``work``).
"""

from __future__ import annotations

from mlc_jitd.engine.engine import Engine
from mlc_jitd.engine.ledger import Asking, JobState
from mlc_jitd.engine.onlookers import Onlooker
from mlc_jitd.engine.outbox import Replies
from mlc_jitd.engine.views import Facts

__all__ = ["Asking", "Engine", "Facts", "JobState", "Onlooker", "Replies"]
