"""What the verbs share that work on the cache folder: ``mlc-jitd VERB`` is run and its JSON read.

A client imports nothing of the daemon; the work is done in a process of its own, which needs no running daemon.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from mlc_jit.errors import DaemonUnavailableError, error_class

if TYPE_CHECKING:
    from collections.abc import Callable


def upkeep(verb: str, *arguments: str, on_progress: Callable[[Any], None] | None = None) -> Any:
    """What ``mlc-jitd VERB`` found or did, as JSON values.

    Args:
        verb: A verb of ``mlc_jitd.upkeep``.
        arguments: For its command line.
        on_progress: Gets each progress value as it comes. What the process writes to standard error goes to ours.

    Raises:
        JitError: Its error, of the class that it had there.
        DaemonUnavailableError: It could not be run, or ended without an answer.
        KeyboardInterrupt: So was it; it has ended.
    """
    command = [sys.executable, "-P", "-m", "mlc_jitd", verb, *arguments]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    except OSError as error:
        raise DaemonUnavailableError(f"`{' '.join(command)}` can't be run: {error}.", reason="upkeep") from error
    answer: dict[str, Any] | None = None
    assert process.stdout is not None
    with process:
        try:
            for line in process.stdout:
                value = json.loads(line)
                if "progress" in value:
                    if on_progress is not None:
                        on_progress(value["progress"])
                else:
                    answer = value
        except ValueError:
            process.kill()  # what it says is no JSON: it is no `mlc-jitd` of ours
            answer = None
        except BaseException:
            process.terminate()
            raise
    if answer is None:
        raise DaemonUnavailableError(
            f"`mlc-jitd {verb}` ended without an answer (exit status {process.returncode}).",
            remedy=f"Look at what it says: {' '.join(command)}",
            reason="upkeep",
        )
    if "error" in answer:
        facts = {name: str(answer.get(name, "")) for name in ("remedy", "reason", "key", "log_path", "log_tail")}
        raise error_class(str(answer["error"]))(str(answer.get("message", "")), **facts)
    return answer.get("result")
