"""Console sessions in Markdown: found, run in one shell, and compared with what the page shows.

A session is a block fenced as ``console``; its lines that begin with ``$ `` are typed (those that begin with ``> `` go
on), what follows is shown. The sessions of a page run in its order, in one shell. In what a page shows

    …       stands for anything in its line; alone on a line, for any lines
    7       a number stands for any number, with any unit of size or time behind it
    6588…   hex digits of a key (eight or more) for any such
    ~       is the home

and runs of blanks count as one, since tables fit their columns to what is in them. Lines of progress, as there are
where standard error is no terminal, are not compared.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRESS = re.compile(r"mlc-jit: .+ \([\d.]+ s(, .*)?\)")
KEY = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b")
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*(?: (?:min|h|d|s|ms)\b| ?[kMGT]i?B\b| B\b)?(?: \d+ (?:s|min|h)\b)?")


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and what the page says that it shows."""

    page: str
    line: int
    command: str
    shows: str


def blocks(text: str, language: str) -> Iterator[tuple[int, str]]:
    """The fenced blocks of one language, each with the number of its first line."""
    for found in FENCE.finditer(text):
        if found[1] == language:
            yield text.count("\n", 0, found.start(2)) + 1, found[2]


def steps(page: Path) -> list[Step]:
    """The commands of all sessions of a page."""
    found: list[Step] = []
    for first, block in blocks(page.read_text(), "console"):
        for number, line in enumerate(block.splitlines(), first):
            if line.startswith("$ "):
                found.append(Step(page.name, number, line[2:], ""))
            else:
                last = found.pop()
                if line.startswith("> "):
                    found.append(Step(last.page, last.line, f"{last.command}\n{line[2:]}", last.shows))
                else:
                    found.append(Step(last.page, last.line, last.command, f"{last.shows}{line}\n"))
    return found


def run(commands: list[str], folder: Path, out: Path, env: Mapping[str, str], limit: float) -> list[str]:
    """What each command shows, both streams, run one after the other in one shell."""
    script = "".join(f"{{ {each}\n}} >{out}/{number} 2>&1\n" for number, each in enumerate(commands))
    subprocess.run(
        ["bash", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=folder, env=dict(env),
        timeout=limit, check=False,
    )  # fmt: skip
    return [(out / str(number)).read_text(errors="replace") for number in range(len(commands))]


def plain(text: str, home: str) -> list[str]:
    """Lines as they are compared."""
    lines = [line for line in text.replace(home, "~").splitlines() if not PROGRESS.fullmatch(line)]
    return [" ".join(NUMBER.sub("7", KEY.sub("KEY", line)).split()) for line in lines]


def agrees(shown: str, printed: str, home: str) -> bool:
    """Whether what was printed is what the page shows."""
    pattern = ""
    for line in plain(shown.rstrip("\n"), home):
        pattern += r"(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in plain(printed.rstrip("\n"), home))) is not None
