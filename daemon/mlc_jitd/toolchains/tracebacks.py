"""The one line of a failed compiler's log that says why: from a Python traceback, TVM's errors, or argparse.

A traceback ends with the exception's line; TVM then prints the whole module behind it, sometimes thousands of lines,
so the last line is seldom the one. What does not belong here: what the error means for the request.
"""

from __future__ import annotations

import re

from mlc_jitd.toolchains.base import plain, shortened

_EXCEPTION = re.compile(
    r"^(?P<kind>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Iteration|Fault))(?::\s*(?P<why>.*))?$"
)
_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+)')
_FATAL = re.compile(r"^(Fatal Python error: .*|terminate called after throwing .*|LLVM ERROR: .*|what\(\):\s+.*)$")
_SEGFAULT = re.compile(r"^!+ ?Segfault encountered", re.IGNORECASE)
_NATIVE_FRAME = re.compile(r'^File "[^"]*", line \d+, in (?P<function>(?:\w+::)+\w+)')
_MARKS = re.compile(r"^[\s^~]+$")
_USAGE = re.compile(r"^-+ Error -+$")
_TOOL = re.compile(
    r"^(.*: (fatal )?error: .*|collect2: error: .*|.*: cannot find -l\S+.*|nvcc fatal\s*:.*|ptxas fatal\s*:.*)$"
)


def last_error(tail: str) -> str | None:
    """The sentence that names the cause, or ``None`` where the log names none.

    Args:
        tail: The log's last lines; the first of them may be cut.
    """
    lines = [plain(line) for line in tail.splitlines()]
    return _usage(lines) or _exception(lines) or _fatal(lines) or _tool(lines)


def _usage(lines: list[str]) -> str | None:
    """What mlc_llm's argument parser says under its ruler."""
    for index in range(len(lines) - 1, -1, -1):
        if _USAGE.match(lines[index]):
            return next((shortened(line) for line in lines[index + 1 :] if line), None)
    return None


def _exception(lines: list[str]) -> str | None:
    """The last exception that ends a traceback; with the failed assertion where it carries no text."""
    start = max((i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")), default=-1)
    body = lines[start + 1 :]
    for index, line in enumerate(body):
        found = _EXCEPTION.match(line)
        if found is None:
            continue
        why = found["why"] or ""
        if not why.strip():
            why = _statement(body[:index])
        elif why.rstrip().endswith(":") and index + 1 < len(body):
            why = f"{why} {_detail(body[index + 1 :])}"
        kind = found["kind"].rpartition(".")[2]
        sentence = f"{kind}: {why}" if why.strip() else kind
        return shortened(_with_tool(sentence, body[index + 1 :]))
    return None


def _statement(before: list[str]) -> str:
    """The source line that raised, and where it stands: all that a bare assertion leaves."""
    source = next((line for line in reversed(before) if line and not _MARKS.match(line)), "")
    frame = next((found for line in reversed(before) if (found := _FRAME.match(line))), None)
    if frame is None or _FRAME.match(source):
        return source
    return f"{source} ({frame['file'].rpartition('/')[2]}:{frame['line']})"


def _detail(after: list[str]) -> str:
    return next((line for line in after if line and not _MARKS.match(line)), "")


def _with_tool(sentence: str, after: list[str]) -> str:
    """Add what a called program said, where the exception only says that it failed."""
    said = _tool(after)
    return f"{sentence} {said}" if said and said not in sentence else sentence


def _fatal(lines: list[str]) -> str | None:
    """What a crash leaves: the run-time's last words, or the innermost function of TVM's native backtrace."""
    for index in range(len(lines) - 1, -1, -1):
        if _FATAL.match(lines[index]):
            return shortened(lines[index])
        if _SEGFAULT.match(lines[index]):
            frames = (found["function"] for line in lines[index + 1 :] if (found := _NATIVE_FRAME.match(line)))
            where = next(frames, "")
            return "the compiler crashed (segmentation fault)" + (f" in {where}" if where else "")
    return None


def _tool(lines: list[str]) -> str | None:
    return next((shortened(line) for line in lines if _TOOL.match(line)), None)
