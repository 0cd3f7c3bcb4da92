"""The supervisor: a small process that holds one job's process tree and outlives neither it nor the daemon.

It is started by path (``boot.py``) with ``-I -S``, so what is imported here is part of each job's start-up time:
standard library only, and of that neither dataclasses, typing, pathlib nor subprocess (5 to 17 ms each).

===========  ==========================================================================
``boot``     the entry point: finds this package without site-packages
``loop``     the life of one job: limits, orders, end
``child``    starts the command: session, signals, yielding, exec
``tree``     who belongs to the job
``kernel``   the few system calls that Python does not have
``log``      the bounded log file
``lines``    which lines of a flood are passed on
``wire``     the job as it comes in, the report as it goes out
===========  ==========================================================================
"""

from __future__ import annotations
