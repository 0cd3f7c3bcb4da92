"""Elements of a page. Text and attributes are escaped here, always; only what was made here is taken as it is.

Model paths, causes and program names are data that anybody may have chosen.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VOID = frozenset({"meta"})
"""Elements that have no end."""

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


class Markup(str):
    """Text that is HTML already. Only this module makes it."""

    __slots__ = ()


def el(name: str, /, *children: str | Iterable[str], **attributes: str | float | None) -> Markup:
    """An element.

    Args:
        name: Of the element; never data.
        children: Text, which is escaped, or elements.
        attributes: ``None`` leaves one out; ``class_`` is ``class``, and other ``_`` are ``-``.
    """
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(shown(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "" if name in VOID else f"{joined(_flat(children))}</{name}>"
    return Markup(f"<{name}{told}>{inner}")


def joined(children: Iterable[str]) -> Markup:
    """Elements and texts, one after the other."""
    return Markup("".join(each if isinstance(each, Markup) else html.escape(shown(each)) for each in children))


def raw(text: str) -> Markup:
    """Text of our own that is HTML or CSS already; never data."""
    return Markup(text)


def shown(value: str | float) -> str:
    """A value as an attribute or a text has it; what no page may hold, or would turn the text around, becomes ``�``."""
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return "".join(letter if letter.isprintable() or letter == "\n" else UNPRINTABLE for letter in str(value))


def _flat(children: Iterable[str | Iterable[str]]) -> Iterator[str]:
    for child in children:
        if isinstance(child, str):
            yield child
        else:
            yield from child
