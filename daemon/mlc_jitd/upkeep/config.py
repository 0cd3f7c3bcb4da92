"""Every setting of a daemon that is started here: its value, who says so, and what it means."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from mlc_jitd.config import Settings, gather
from mlc_jitd.sources import PREFIX, flag

if TYPE_CHECKING:
    import argparse

    from mlc_jitd.upkeep import Tell


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--markdown", action="store_true", help="the table of docs/configuration.md instead")


def run(arguments: argparse.Namespace, _tell: Tell) -> Any:
    """Look; a slip is part of the result, not an error."""
    if arguments.markdown:
        return markdown()
    found = gather()
    about = {each.name: each for each in dataclasses.fields(Settings)}
    rows = []
    for each in found.values:
        kind = about[each.name].metadata["kind"]
        rows.append(
            {
                "name": each.name,
                "value": each.value,
                "shown": kind.show(each.value),
                "default": kind.show(about[each.name].default),
                "origin": each.origin,
                "source": each.source,
                "variable": PREFIX + each.name.upper(),
                "flag": flag(each.name),
                "meaning": about[each.name].metadata["meaning"],
                "live": about[each.name].metadata["live"],
            }
        )
    return {
        "files": [{"path": str(path), "read": there} for path, there in found.files],
        "settings": rows,
        "slips": [{"message": slip.message, "remedy": slip.remedy} for slip in found.slips],
    }


def markdown() -> str:
    """All settings as a table."""
    lines = ["| setting | variable | default | live | meaning |", "|---|---|---|---|---|"]
    for each in dataclasses.fields(Settings):
        about = each.metadata
        page = f" ([more]({about['page']}))" if about["page"] else ""
        default = about["kind"].show(each.default)
        live = "yes" if about["live"] else ""
        cells = [f"`{each.name}`", f"`{PREFIX}{each.name.upper()}`", default, live, f"{about['meaning']}{page}"]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"
