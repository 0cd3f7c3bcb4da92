"""How the text of a setting becomes its value, and back: one `Kind` for each sort of value.

What does not belong here: which settings there are (``config``), and where their texts stand (``sources``).
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlc_jitd.named import parse_toolchains

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


LARGEST = 1 << 63
"""What no number reaches: more than a file system's own counters hold."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of value.

    Attributes:
        read: Text to value; raises a ValueError whose text goes on after "must be".
        show: Value to the text that people see, and that ``read`` takes.
        table: Whether a file may have a table; its text is JSON.
    """

    read: Callable[[str], Any]
    show: Callable[[Any], str] = str
    table: bool = False


def number(kind: type, least: float) -> Kind:
    """A finite number that is not too small."""
    whole = "a whole number" if kind is int else "a number"

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value < LARGEST:
            most = f" and below {LARGEST:.0e}" if value is not None and value >= LARGEST else ""
            raise ValueError(f"{whole} of at least {least:g}{most}")
        return value

    return Kind(read, lambda value: f"{value:.12g}")


def words(meanings: Mapping[str, str], otherwise: Kind | None = None) -> Kind:
    """One of some words, in any case; else what another kind makes of it.

    Args:
        meanings: For each word the text that it stands for.
        otherwise: Without it a word stands for itself, and nothing else will do.
    """
    listed = ", ".join(f"`{word}`" for word in meanings)

    def read(text: str) -> Any:
        known = meanings.get(text.lower())
        if otherwise is None:
            if known is None:
                raise ValueError(f"one of {listed}")
            return known
        if known is not None and known == text.lower():
            return known
        try:
            return otherwise.read(text if known is None else known)
        except ValueError as error:
            raise ValueError(f"{listed} or {error}") from None

    return Kind(read, otherwise.show if otherwise else str)


def one_of(*choices: str) -> Kind:
    """One of some words, in any case."""
    return words({each: each for each in choices})


def _switch(text: str) -> bool:
    if text.lower() in {"on", "true", "yes", "1"}:
        return True
    if text.lower() in {"off", "false", "no", "0"}:
        return False
    raise ValueError("`on` or `off`")


def _folders(text: str) -> str:
    if not all(os.path.isabs(each) for each in text.split(":")):  # noqa: PTH117 - text stays text
        raise ValueError("absolute paths")
    return text


def _bucket(text: str) -> str:
    if text and not re.fullmatch(r"(s3|s3a|gs|az|azure|abfs|abfss|file)://[^/\s]*(/\S*)?", text):
        raise ValueError("an address like s3://bucket/prefix, gs://, az:// or file:///folder")
    return text


def _address(text: str) -> str:
    if not text:
        return text
    if text.startswith("unix:"):
        if os.path.isabs(text.removeprefix("unix:")):  # noqa: PTH117 - text stays text
            return text
    else:
        host, _, port = text.rpartition(":")
        host = "127.0.0.1" if host in ("", "localhost") else host
        try:
            if ipaddress.ip_address(host.strip("[]")).is_loopback and 0 <= int(port) < 1 << 16:
                return f"{host}:{int(port)}"
        except ValueError:
            pass
    raise ValueError("a port, an address of this host alone like 127.0.0.1:9464, or unix:/path/of/a/socket")


def _prom(text: str) -> str:
    if text and not (os.path.isabs(text) and text.endswith(".prom")):  # noqa: PTH117 - text stays text
        raise ValueError("an absolute path that ends in .prom")
    return text


def _farm(text: str) -> str:
    if text and not re.fullmatch(r"dasks?://[^/\s:]+:\d+", text):
        raise ValueError("an address like dask://host:8786, or dasks:// with TLS")
    return text


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("a size such as 512 MiB or 20 GiB")
    size = float(match[1]) * UNITS[match[2].upper()]
    if size >= LARGEST:
        raise ValueError(f"a size below {LARGEST >> 60} EiB")
    return int(size)


def _shown_size(count: int) -> str:
    for unit in ("T", "G", "M", "K"):
        if count and count % UNITS[unit] == 0:
            return f"{count // UNITS[unit]} {unit}iB"
    return str(count)


_PRINCIPAL = re.compile(r"@?[\w.-]+", re.ASCII)


def _principals(text: str) -> str:
    if text and not all(_PRINCIPAL.fullmatch(each) for each in text.split(":")):
        raise ValueError("names of users, and of groups with `@` before them")
    return text


def _names(text: str) -> str:
    if text and not all(_VARIABLE.fullmatch(each) for each in text.split(":")):
        raise ValueError("names of variables")
    return text


_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def _toolchains(text: str) -> str:
    if text:
        parse_toolchains(text)
    return text


SWITCH = Kind(_switch, lambda value: "on" if value else "off")
FOLDERS = Kind(_folders)
"""Absolute paths with ``:`` between them; the value is the text."""

OPTIONAL_FOLDERS = Kind(lambda text: _folders(text) if text else text)
"""As ``FOLDERS``, or none."""

FARM = Kind(_farm)
"""The address of a compile farm, or empty."""

BUCKET = Kind(_bucket)
"""The address of an object store, or empty."""

PRINCIPALS = Kind(_principals)
"""Users, and groups as ``@group``, by name or number, with ``:`` between them."""

VARIABLES = Kind(_names)
"""Names of variables with ``:`` between them."""

TOOLCHAINS = Kind(_toolchains, table=True)
"""Compilers by name, as JSON; see ``named.parse_toolchains``."""

ADDRESS = Kind(_address)
"""Where only this host can reach it: a port, an address with one, ``unix:/path``; or empty."""

PROM = Kind(_prom)
"""A file for node_exporter, or none."""

SIZE = Kind(_size, _shown_size)
"""Bytes, as a number or with a unit of 1,024: ``512 MiB``."""

TEXT = Kind(str)


def of_default(default: Any, least: float) -> Kind:
    """The kind that a default has by its type."""
    if isinstance(default, bool):
        return SWITCH
    if isinstance(default, (int, float)):
        return number(type(default), least)
    return TEXT


def text_of_toml(value: Any) -> str | None:
    """A value of a TOML file as the text that a variable would have; None for what can't be one."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ":".join(value)
    return None
