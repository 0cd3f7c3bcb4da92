"""Completion and man pages: made from the parsers, current, and what shells and readers make of them."""

from __future__ import annotations

import importlib.util
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jit.cli import completion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.daemons import Place

ROOT = Path(__file__).parents[2]
KEY, LOGGED = "ab" * 32, "cd" * 32


def generator() -> Any:
    """``docs/terminal.py``."""
    spec = importlib.util.spec_from_file_location("terminal_docs", ROOT / "docs" / "terminal.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed here")


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse words usage differently in each Python")
def test_scripts_and_pages_are_current() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in generator().files().items() if path.read_text() != text]
    assert not stale, f"run `make man`: {stale}"


def test_every_word_of_the_command_line_is_known_to_the_generator() -> None:
    """A new verb whose argument is called otherwise would be completed as nothing."""
    module = generator()
    for command in module.PARSERS:
        for parser, _ in module._parsers(module.PARSERS[command]()):
            for action in parser._actions:
                if action.option_strings or action.choices:
                    continue
                assert (action.metavar or action.dest) in module.STANDS_FOR, f"{parser.prog} {action.dest}"


def test_each_shell_has_its_script_in_the_package_and_the_wheel() -> None:
    named = {name for names in completion.FILES.values() for name in names}
    assert {path.name for path in completion.SCRIPTS.iterdir()} == named
    wheel = (ROOT / "pyproject.toml").read_text()
    assert all(f'"client/mlc_jit/completions/{name}" = "share/' in wheel for name in named)
    pages = {path.name for path in (ROOT / "docs" / "man").iterdir()}
    assert all(f'"docs/man/{name}" = "share/man/man1/{name}"' in wheel for name in pages)


@pytest.fixture
def cache(place: Place) -> Path:
    """A cache with one key, and a log of another."""
    (place.library / ".logs").mkdir(parents=True)
    (place.library / f"{KEY}.json").touch()
    (place.library / ".logs" / f"{LOGGED}.log").touch()
    (place.root / "models").mkdir()
    return place.root


LINES = {
    "mlc-jit expl": "explain",
    "mlc-jit verify ": KEY[:12],
    "mlc-jit log ": LOGGED[:12],
    "mlc-jit pin mod": "models",
    "mlc-jit unpin ab": KEY[:12],
    "mlc-jit gc --max-s": "--max-size",
    "mlc-jit compile --policy REA": "READONLY",
    "mlc-jit service un": "uninstall",
    "mlc-jitd run --drain": "--drain-seconds",
}
"""What is typed, and a word that completes it."""

BASH = """
eval "$("$1" -P -m mlc_jit completion bash)"
while IFS= read -r line; do
    read -ra COMP_WORDS <<< "$line"
    [[ $line == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    function=$(complete -p "${COMP_WORDS[0]}" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    "$function"
    echo "${COMPREPLY[*]%/}"
done
"""

FISH = """
$argv[1] -P -m mlc_jit completion fish | source
for line in $argv[2..]
    echo (string trim --right --chars / -- (complete -C $line | cut -f 1))
end
"""


@needs("bash")
def test_bash_completes(cache: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", sys.executable], input="\n".join(LINES) + "\n",
        capture_output=True, text=True, check=False, cwd=cache,
    )  # fmt: skip
    assert dict(zip(LINES, done.stdout.splitlines(), strict=True)) == LINES, done.stderr


@needs("fish")
def test_fish_completes(cache: Path) -> None:
    for name in ("mlc-jit", "mlc-jitd"):  # fish completes for commands that it finds
        (cache / name).touch(mode=0o755)
    path = f"{cache}:{os.environ['PATH']}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", FISH, sys.executable, *LINES],
        capture_output=True, text=True, check=False, cwd=cache, env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert dict(zip(LINES, done.stdout.splitlines(), strict=True)) == LINES, done.stderr


ZSHRC = """
PROMPT= RPROMPT=
unsetopt prompt_sp
autoload -U compinit
compinit -u -D
eval "$({python} -P -m mlc_jit completion zsh)"
bindkey '^I' complete-word
finish() {{ print -r -- "=$BUFFER="; BUFFER=; zle reset-prompt }}
zle -N finish
bindkey '^X' finish
print ready
"""


@pytest.fixture
def terminal(cache: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """An interactive zsh; what is typed and shown goes through the descriptor."""
    (cache / ".zshrc").write_text(ZSHRC.format(python=sys.executable))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=cache, start_new_session=True,
        env={**os.environ, "ZDOTDIR": str(cache), "TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    yield process, ours
    process.kill()
    process.wait()
    os.close(ours)


def shown(descriptor: int, word: str, limit: float = 10) -> str:
    """What the terminal shows, up to a word."""
    text, end = "", time.monotonic() + limit
    while word not in text:
        assert time.monotonic() < end, text
        text += os.read(descriptor, 4096).decode(errors="replace")
    return text


@needs("zsh")
def test_zsh_completes(terminal: tuple[subprocess.Popen[bytes], int]) -> None:
    _, descriptor = terminal
    shown(descriptor, "ready")
    for line, word in LINES.items():
        os.write(descriptor, f"{line}\t\x18".encode())
        start = line[: len(line) - len(line.split(" ")[-1])]
        shown(descriptor, f"={start}{word}")


@needs("man")
def test_the_pages_read_well() -> None:
    for page in sorted((ROOT / "docs" / "man").iterdir()):
        done = subprocess.run(
            ["man", "--warnings", "-l", str(page)], capture_output=True, text=True, check=False,
            env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert all(len(line) <= 80 for line in done.stdout.splitlines())
        assert "EXIT STATUS" in done.stdout or page.name == "mlc-jitd.1"


def test_the_command_line_starts_without_the_generators() -> None:
    code = "import sys; from mlc_jit import cli; cli.command_line(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"shtab", "argparse_manpage"} & set(loaded.split())
