"""Write the completion scripts and the man pages anew, from the parsers that print ``--help``; `make docs` runs this.

The scripts are shtab's, with what a word of this command line stands for added here: model folders, files, and the keys
of the cache, which the shell reads from the folder's names, without starting Python. The pages are argparse-manpage's.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import shtab
from argparse_manpage.manpage import Manpage

from mlc_jit import cli
from mlc_jit._version import __version__
from mlc_jitd import __main__ as service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "client" / "mlc_jit" / "completions"
PAGES = ROOT / "docs" / "man"
MADE_BY = (3, 11)
"""The Python that writes them: argparse words usage and options a little differently in each."""

PARSERS: Mapping[str, Callable[[], argparse.ArgumentParser]] = {
    "mlc-jit": cli.command_line,
    "mlc-jitd": service.command_line,
}
NAMES = {"bash": "{}.bash", "zsh": "_{}", "fish": "{}.fish"}

_FOLDER = '"${MLC_LLM_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/mlc_llm}"/model_lib'
_KEYS = rf"ls {_FOLDER} 2>/dev/null | sed -nE 's/^([0-9a-f]{{12}})[0-9a-f]{{52}}\.json$/\1/p'"
_LOGS = rf"ls -t {_FOLDER}/.logs 2>/dev/null | sed -nE 's/^([0-9a-f]{{12}})[0-9a-f]{{52}}\.log$/\1/p'"


def _for_fish(command: str) -> str:
    """A command for ``sh``, as fish writes it: it has no ``${NAME:-default}`` of its own."""
    return "sh -c '" + command.replace("\\", "\\\\").replace("'", "\\'") + "'"


PREAMBLES = {
    "bash": f"""\
_mlc_jit_keys() {{ compgen -W "$({_KEYS})" -- "$1"; }}
_mlc_jit_logs() {{ compgen -W "$({_LOGS})" -- "$1"; }}
_mlc_jit_dirs_and_keys() {{ compgen -d -- "$1"; _mlc_jit_keys "$1"; }}
_mlc_jit_files_and_keys() {{ compgen -f -- "$1"; _mlc_jit_keys "$1"; }}""",
    "zsh": f"""\
_mlc_jit_keys() {{ compadd -- ${{(f)"$({_KEYS})"}} }}
_mlc_jit_logs() {{ compadd -- ${{(f)"$({_LOGS})"}} }}
_mlc_jit_dirs_and_keys() {{ _files -/; _mlc_jit_keys }}
_mlc_jit_files_and_keys() {{ _files; _mlc_jit_keys }}""",
    "fish": f"""\
function _mlc_jit_keys
  {_for_fish(_KEYS)}
end
function _mlc_jit_logs
  {_for_fish(_LOGS)}
end""",
}

KEYS = {"bash": "_mlc_jit_keys", "zsh": "_mlc_jit_keys", "fish": "(_mlc_jit_keys)"}
LOGS = {"bash": "_mlc_jit_logs", "zsh": "_mlc_jit_logs", "fish": "(_mlc_jit_logs)"}
FOLDERS_AND_KEYS = {
    "bash": "_mlc_jit_dirs_and_keys",
    "zsh": "_mlc_jit_dirs_and_keys",
    "fish": "(__fish_complete_directories; _mlc_jit_keys)",
}
_FISH_FILES_AND_KEYS = "(__fish_complete_path (commandline -ct); _mlc_jit_keys)"
STANDS_FOR = {
    "MODEL": shtab.DIRECTORY,
    "KEY": KEYS,
    "key": LOGS,
    "MODEL|KEY": FOLDERS_AND_KEYS,
    "KEY|MODEL": FOLDERS_AND_KEYS,
    "FILE": shtab.FILE,
    "FILE.toml|MODEL": shtab.FILE,
    "KEY|FILE": {"bash": "_mlc_jit_files_and_keys", "zsh": "_mlc_jit_files_and_keys", "fish": _FISH_FILES_AND_KEYS},
    "PROGRAM": shtab.FILE,
    "URL": {},
}
"""How a word is completed, by what the help calls it."""


def parser_of(command: str) -> argparse.ArgumentParser:
    """Its parser, marked for shtab: what each word stands for, and one short line for each verb."""
    parser = PARSERS[command]()
    for each, line in _parsers(parser):
        if line:
            each.description = line
        for action in each._actions:  # noqa: SLF001 - argparse shows them to nobody else
            name = action.metavar if isinstance(action.metavar, str) else action.dest
            known = STANDS_FOR.get(name)
            if known is not None and not action.choices:
                action.complete = known  # type: ignore[attr-defined]
    return parser


def _parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    yield parser, ""
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            lines = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            for name, each in action.choices.items():
                yield each, lines.get(name, "")


def script(command: str, shell: str) -> str:
    """The completion script of one command for one shell."""
    preamble: Any = PREAMBLES if command == "mlc-jit" else ""
    made = shtab.complete(parser_of(command), shell=shell, preamble=preamble)
    return "\n".join(line.rstrip() for line in made.strip().splitlines()) + "\n"


def page(command: str) -> str:
    """The man page of one command."""
    parser = PARSERS[command]()
    about = {
        "project_name": "mlc-jitd",
        "version": __version__,
        "manual_title": "mlc-jitd",
        "description": (parser.description or "").rstrip("."),
        "date": " ",
    }
    codes, parser.epilog = parser.epilog or "", None
    with mock.patch.dict(os.environ, COLUMNS="70"):  # usage is broken here, and the page indents it
        made = Manpage(parser, _data=about, format="pretty")
        made.date = ""
        text = str(made).replace(".SH\nPOSITIONAL ARGUMENTS", ".SH\nCOMMANDS")
    if codes:
        head, *lines = codes.strip().splitlines()
        parts = (line.strip().partition(" ") for line in lines)
        text += f"\n.SH EXIT STATUS\n{head.partition(';')[2].strip().capitalize()}"
        text += "".join(f"\n.TP\n{code}\n{what.strip()}" for code, _, what in parts)
    other = next(name for name in PARSERS if name != command)
    text = f"{text.rstrip()}\n.SH SEE ALSO\n.BR {other} (1)\n"
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def files() -> dict[Path, str]:
    """Everything that is made, by where it stands."""
    made = {}
    for command in PARSERS:
        made[PAGES / f"{command}.1"] = page(command)
        for shell, name in NAMES.items():
            made[SCRIPTS / name.format(command)] = script(command, shell)
    return made


def main() -> int:
    """Do it; 1 under another Python than the one whose wording is kept."""
    if sys.version_info[:2] != MADE_BY:
        print(f"docs/terminal.py: made with Python {'.'.join(map(str, MADE_BY))} alone; nothing was written")  # noqa: T201
        return 1
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
