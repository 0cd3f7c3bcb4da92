"""Whether a compile's kernels are compiled apart and reused, and what came of it. docs/kernels.md has the whole.

It joins what runs in the compiler (`toolchains/kernels`) with the kernels' store (`store/kernels`). What does not
belong here: running compilers, and what is in a kernel's key beside the build of TVM.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from mlc_jitd.identity.canonical import digest
from mlc_jitd.store import KernelRecord
from mlc_jitd.toolchains import kernels
from mlc_jitd.toolchains.kernels.inside.mlc_jitd_kernels import selfcheck

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from mlc_jitd.build import Outcome
    from mlc_jitd.identity import Identity, ToolchainFacts
    from mlc_jitd.store import KernelStore
    from mlc_jitd.toolchains import Command

logger = logging.getLogger(__name__)

FOLDER = "kernels"
INSIDE = "mlc_jitd_kernels/"
"""What a traceback names where our code is in it."""

"""In a build's staging folder."""


_AROUND_NVCC = ("environment", "toolchain")
"""Parts of a library's key that say which nvcc there is, and what it reads."""


class Pool(Protocol):
    """Other hosts' kernels. Trouble with it is no error: then kernels are compiled here."""

    def gather(self, identity: Identity, build: str) -> None:
        """Get kernels that a compile may want into the store; waits, within bounds.

        Args:
            identity: What is about to be compiled.
            build: The toolchain's build of TVM.
        """

    def share(self, identity: Identity, build: str, keys: Collection[str]) -> None:
        """Let others have what a compile made; never waits."""


class Acceleration:
    """See the module's docstring. From any thread.

    Args:
        store: The kernels of all toolchains.
    """

    def __init__(self, store: KernelStore) -> None:
        self.store = store
        self.pool: Pool | None = None
        """Where kernels of other hosts are."""

    def takes(self, facts: ToolchainFacts) -> bool:
        """Whether a toolchain's TVM may be one whose code generation is known; the compile itself looks closer."""
        return dict(facts.versions).get("tvm", "").startswith(selfcheck.VERSIONS)

    def command(self, command: Command, identity: Identity, staging: Path, *, cores: int) -> Command:
        """The command that compiles kernels apart.

        Args:
            command: The toolchain's own.
            identity: What is compiled, and by what.
            staging: The build's folder.
            cores: How many kernels at a time.

        Raises:
            OSError: The build's folder can't be written.
        """
        if self.pool is not None:
            self.pool.gather(identity, build_of(identity.toolchain))
        new = staging / FOLDER
        new.mkdir()
        return kernels.accelerated(
            command,
            store=self.store.root,
            new=new,
            identity=build_of(identity.toolchain),
            workers=cores,
            device_identity=digest([part.sha256 for part in identity.parts if part.name in _AROUND_NVCC]),
        )

    def is_suspect(self, staging: Path, outcome: Outcome) -> bool:
        """Whether a compile that failed may have failed because its kernels were compiled apart; counted if so."""
        report = kernels.read_report(staging / FOLDER)
        crashed = outcome.status == "signalled" and bool(report.taken)
        seen = INSIDE in outcome.log_tail  # a traceback that goes through what is ours: a script's, most likely
        behind = outcome.status == "exited" and (report.way == "kernels" or report.failures > 0 or seen)
        if not crashed and not behind:
            return False
        logger.warning("a compile failed in which %s was taken over: once more without", ", ".join(report.taken))
        self.store.gave_up()
        return True

    def settle(self, staging: Path, identity: Identity) -> KernelRecord:
        """Keep what a compile made; what the manifest says of it.

        To be called when the compiler was seen to be still what the keys name.
        """
        report = kernels.read_report(staging / FOLDER)
        self.store.take_in(staging / FOLDER, report)
        if self.pool is not None:
            self.pool.share(identity, build_of(identity.toolchain), (*report.made, *report.devices))
        return KernelRecord(
            way=report.way,
            why=report.why,
            total=report.kernels,
            reused=len(report.reused),
            saved=report.saved,
            spent=report.spent,
        )


def build_of(facts: ToolchainFacts) -> str:
    """The build of TVM, by content: equal for all toolchains that have the same one, wherever they lie."""
    packages = facts.value["packages"]
    return digest([{name: packages.get(name) for name in ("tvm", "tvm_ffi")}, facts.value["startup"]])
