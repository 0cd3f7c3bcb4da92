"""What the client logs, under the name ``mlc_jit``, without making anybody pay for ``logging`` who does not use it.

To import it takes as long as a tenth of a whole hit. A program that has not imported it can't have set it up, so it
would show no more than warnings.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

NAME = "mlc_jit"


def info(text: str, *arguments: Any, log: logging.Logger | None = None) -> None:
    """Log at level INFO where somebody may listen.

    Args:
        text: With ``%`` for the arguments, as ``logging`` has it.
        arguments: For the text.
        log: Another logger than ours.
    """
    if log is None and "logging" in sys.modules:
        log = logger()
    if log is not None:
        log.info(text, *arguments)


def warning(text: str, *arguments: Any) -> None:
    """Log at level WARNING, which reaches standard error where nothing is set up."""
    logger().warning(text, *arguments)


def logger() -> logging.Logger:
    """The logger itself."""
    import logging  # noqa: PLC0415 - see the module's docstring

    return logging.getLogger(NAME)
