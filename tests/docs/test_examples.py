"""What the pages show is what happens: sessions and programs are run, commands parsed, links followed."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import sessions

from mlc_jit import cli

if TYPE_CHECKING:
    from harness.daemons import Place
    from harness.doubles import Double

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODELS = {"smollm2-135m": 512, "Qwen3-0.6B": 1000}
"""The model folders that the pages speak of, told apart by their vocabulary."""

WITH_SESSIONS = [page for page in PAGES if sessions.steps(page)]
WITH_PROGRAMS = [page for page in PAGES if any(sessions.blocks(page.read_text(), "python"))]

GIVEN = """
model_path, model_a, model_b = "smollm2-135m", "smollm2-135m", "Qwen3-0.6B"
"""


@pytest.fixture
def folder(place: Place, double: Double, ended: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader stands: a home with the models and nothing else; the compiler is the double."""
    for name, vocabulary in MODELS.items():
        (place.home / name).mkdir()
        (place.home / name / "mlc-chat-config.json").write_bytes(double.module.config(None, vocab_size=vocabulary))
    shutil.copytree(place.home / "smollm2-135m", place.home / "examples" / "smollm2-135m")  # the README's
    (place.home / "bin").mkdir()
    for name in ("mlc-jit", "mlc-jitd"):
        script = place.home / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m {name.replace("-", "_")} "$@"\n')
        script.chmod(0o755)
    for name in ("MLC_LLM_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MLC_JITD_CONFIG"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{place.home / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "80")
    return place.home


@pytest.mark.timeout(60)
@pytest.mark.parametrize("page", WITH_SESSIONS, ids=lambda page: page.name)
def test_a_session_shows_what_the_page_says(page: Path, folder: Path, place: Place) -> None:
    steps = sessions.steps(page)
    printed = sessions.run([step.command for step in steps], folder, place.folder("out"), os.environ, 50)
    for step, text in zip(steps, printed, strict=True):
        if not sessions.agrees(step.shows, text, str(folder)):
            pytest.fail(f"{step.page}:{step.line}: $ {step.command}\n{text}\n--- the page shows\n{step.shows}")


@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=lambda page: page.name)
def test_a_program_runs(page: Path, folder: Path) -> None:
    for line, program in sessions.blocks(page.read_text(), "python"):
        done = subprocess.run(
            [sys.executable, "-P", "-W", "error", "-c", GIVEN + program],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{page.name}:{line}\n{done.stderr}"


# --- what is only shown ----------------------------------------------------------------------------------------------


def typed() -> list[tuple[str, str]]:
    """Every command of ours on any page, in sessions and in words, as `mlc-jit VERB …`."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = re.findall(r"^(?:    )?(?:\$ |RUN )(mlc-jit .+)$", text, re.MULTILINE)
        lines += re.findall(r"`(mlc-jit [a-z][^`]*)`", text)
        found += [(page.name, line) for line in lines]
    return found


PLACEHOLDER = re.compile(r"…|\[[^]]*\]|\|.*|;.*|>.*|\bor\b.*")


def test_every_command_on_a_page_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """With the verbs and options of today; words in capitals and ``…`` stand for what a reader fills in."""
    parser, lines = cli.command_line(), typed()
    assert len(lines) > 100
    for page, line in lines:
        words = shlex.split(PLACEHOLDER.sub("", line), comments=True)[1:]
        with contextlib.suppress(SystemExit):
            parser.parse_args(words)
        said = capsys.readouterr().err
        named = "required" in said or "expected" in said  # the verb alone, or an option without its value
        assert not said or named, f"{page}: {line}\n{said}"


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_leads_somewhere() -> None:
    found = re.compile(r"\]\(([^)\s]+)\)|\b(?:src|srcset)=\"([^\"]+)\"")
    links = [(page, target) for page in PAGES for target in found.findall(page.read_text())]
    for page, target in links:
        path, _, anchor = (target[0] or target[1]).partition("#")
        if path.startswith(("http://", "https://")):
            continue
        there = page.parent / path if path else page
        assert there.exists(), f"{page.name}: {path}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {path}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [page.name for page in PAGES[1:] if page.name != "README.md" and f"({page.name})" not in index]
    assert not missing


def test_every_message_that_troubleshooting_quotes_is_said_somewhere() -> None:
    """The words of each heading in code stand in one message of the sources, in their order; ``…`` is what varies."""
    rooms = (sorted((ROOT / room).rglob("*.py")) for room in ("client", "daemon"))
    said = "\n".join(path.read_text() for paths in rooms for path in paths)
    said = re.sub(r'"\s*\n\s*f?"', "", said)  # one message over several lines
    said = re.sub(r"\{[^{}]*\}", "…", re.sub(r"\s+", " ", said))
    quoted = re.findall(r"^#+ (`+)(.+)\1$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(quoted) > 25
    for _, message in quoted:
        assert stands(said, [part.strip(" .") for part in message.split("…") if part.strip(" .")]), message


def stands(text: str, parts: list[str]) -> bool:
    """Whether the parts follow each other in the text, closely."""
    start = text.find(parts[0])
    while start >= 0:
        end = start
        for part in parts:
            end = text.find(part, end, end + len(part) + 120)
            if end < 0:
                break
        else:
            return True
        start = text.find(parts[0], start + 1)
    return False
