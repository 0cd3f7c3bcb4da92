"""``mlc-jit completion SHELL``: the script that completes both commands in a shell.

The scripts are files of this package, made from the parsers by `make docs`; nothing is imported to print them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1] / "completions"
FILES = {
    "bash": ("mlc-jit.bash", "mlc-jitd.bash"),
    "zsh": ("_mlc-jit", "_mlc-jitd"),
    "fish": ("mlc-jit.fish", "mlc-jitd.fish"),
}
HOW = """\
to have it in each new shell:
  bash   mlc-jit completion bash > ~/.local/share/bash-completion/completions/mlc-jit
         or, in ~/.bashrc:   eval "$(mlc-jit completion bash)"
  zsh    in ~/.zshrc, behind compinit:   eval "$(mlc-jit completion zsh)"
  fish   mlc-jit completion fish > ~/.config/fish/completions/mlc-jit.fish
"""


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "completion",
        help="print the script that completes mlc-jit and mlc-jitd in bash, zsh or fish",
        description="Print the script that completes mlc-jit and mlc-jitd in a shell: verbs, options, model folders, "
        "and the keys of this cache.",
        epilog=HOW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=tuple(FILES))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    for name in FILES[arguments.shell]:
        print((SCRIPTS / name).read_text(encoding="utf-8"), end="")
    return 0
