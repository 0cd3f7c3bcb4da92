"""The two ways in which a compile can fail, each with the exit status that tells the daemon whose fault it is."""

from __future__ import annotations

USE_MLC_LLM = "use the mlc_llm toolchain for it (wheels: https://mlc.ai/wheels)"
"""The remedy for everything that the embedded toolchain doesn't do."""


class InputError(Exception):
    """What was asked for is wrong, or is beyond the embedded toolchain. Its text is one sentence for the user."""

    exit_status = 2


class CompilerError(Exception):
    """The compiler or the linker failed on a valid request. Its text is one sentence for the user."""

    exit_status = 1
