"""Who asks for what: the model folders that were asked for, the keys that they came to, and which of them are kept.

It lies in the cache folder (``model_lib/.asks``), so that the collector knows it without a daemon. Nothing here is
needed for a right answer. What does not belong here: looking at model folders (``watch``), removing entries.

    folder    values of one model folder, and what follows from them; pure
    registry  the files
"""

from __future__ import annotations

from mlc_jitd.asks.folder import GONE, UNSEEN, Answered, Ask, Folder, Keep, Question, digest, pinned, stale
from mlc_jitd.asks.registry import MOST_FOLDERS, Asks

__all__ = [
    "GONE",
    "MOST_FOLDERS",
    "UNSEEN",
    "Answered",
    "Ask",
    "Asks",
    "Folder",
    "Keep",
    "Question",
    "digest",
    "pinned",
    "stale",
]
