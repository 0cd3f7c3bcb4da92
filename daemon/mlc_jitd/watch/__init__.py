"""Model folders: what they hold is followed, and what follows from a change is done. Never needed for a right answer.

watcher      the thread that takes in and acts      judge      what looks and events mean; pure
arming       which folder is watched how            look       one look at a folder
observer     events, and their losses               mounts     file systems that tell of no events
keeping      pins and pre-warmed questions          background what is asked on nobody's behalf
subscribers  who is told                            lane       a thread that can be left behind
listed       what a daemon is to have from its start
"""

from __future__ import annotations

from mlc_jitd.watch.keeping import keep
from mlc_jitd.watch.watcher import Watcher

__all__ = ["Watcher", "keep"]
