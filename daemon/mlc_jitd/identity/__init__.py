"""What exactly is asked: a request becomes named key parts, a key, and a compile job.

Nothing here imports a compiler; toolchains are asked in subprocesses, and what they said is remembered on disk.
"""

from __future__ import annotations

from mlc_jitd.identity.canonical import FORMAT, PART_NAMES, Part
from mlc_jitd.identity.helpers import end_all as end_helpers
from mlc_jitd.identity.identifier import Identifier, Identity
from mlc_jitd.identity.target import UpstreamName
from mlc_jitd.identity.toolchain import ToolchainFacts

__all__ = [
    "FORMAT",
    "PART_NAMES",
    "Identifier",
    "Identity",
    "Part",
    "ToolchainFacts",
    "UpstreamName",
    "end_helpers",
]
