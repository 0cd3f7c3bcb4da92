"""A list of what is to be in the cache, from a TOML file: models x devices x overrides x opt. docs/watching.md has it.

Every error names the file, the entry and the key in it, and what to write instead. What does not belong here: asking.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from mlc_jit import api
from mlc_jit import messages as m
from mlc_jit.errors import RequestError

ENTRY = "prewarm"
KEYS: dict[str, str] = {
    "model": "a folder, or a list of them",
    "device": 'text such as "cuda:0", a target as a table, or a list of these',
    "overrides": "a table, or a list of tables",
    "opt": 'text such as "O2", or a list',
    "system_lib_prefix": "text",
    "python": "the path of an interpreter",
    "toolchain": "auto, mlc_llm or tvm",
    "pin": "true or false",
}
MOST = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One library that is to be there.

    Attributes:
        model: Absolute path of a model folder.
        device: Device text, a target as JSON included.
        pin: Never to be collected.
    """

    model: str
    device: str = "auto"
    overrides: dict[str, Any] = field(default_factory=dict)
    opt: str = ""
    system_lib_prefix: str | None = None
    python: str = ""
    toolchain: m.ToolchainChoice = "auto"
    pin: bool = False

    @property
    def label(self) -> str:
        """For people: what tells it from others."""
        words = [Path(self.model).name or self.model, self.device, self.opt]
        words += [f"{name}={value}" for name, value in self.overrides.items()]
        return " ".join(word for word in words if word)

    def request(self, policy: m.Policy = "ON") -> m.JitRequest:
        """The request for it, behind interactive ones; reads the config.

        Raises:
            RequestError: The model, an override or the device is unusable.
        """
        overrides = {**self.overrides, **({"opt": self.opt} if self.opt else {})}
        request = api.make_request(
            self.model, overrides, self.device, self.system_lib_prefix, policy=policy, prewarm=True
        )
        if self.python:
            request = dataclasses.replace(request, python=self.python)
        return dataclasses.replace(request, toolchain=self.toolchain) if self.toolchain != "auto" else request


def read(path: Path) -> tuple[Item, ...]:
    """The list in a file, each item once, in order.

    Raises:
        RequestError: It can't be read, or something in it is wrong.
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise RequestError(f"The list {path} can't be read: {why}.", remedy="Pass a TOML file.") from error
    try:
        held = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{path} is no TOML: {error}.", remedy="Correct that line.") from error
    return _items(held, path)


def _items(held: dict[str, Any], path: Path) -> tuple[Item, ...]:
    entries = held.pop(ENTRY, None)
    if not isinstance(entries, list) or not entries or not all(isinstance(each, dict) for each in entries):
        raise RequestError(
            f"{path} has no [[{ENTRY}]] entry.", remedy=f'Write [[{ENTRY}]] and below it model = "/path/of/a/model".'
        )
    general = _checked(held, f"{path}: above the entries", without=("model",))
    found: dict[str, Item] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}: [[{ENTRY}]] number {number}"
        values = {**general, **_checked(entry, where)}
        if "model" not in values:
            raise RequestError(f"{where} has no `model`.", remedy='Write model = "/path/of/a/model".')
        for item in _product(values, path.absolute().parent):
            found.setdefault(json.dumps(dataclasses.asdict(item), sort_keys=True), item)
        if len(found) > MOST:
            raise RequestError(f"{where}: the list comes to more than {MOST} libraries.", remedy="Split it.")
    return tuple(found.values())


def _product(values: dict[str, Any], base: Path) -> list[Item]:
    single = {name: values[name] for name in ("system_lib_prefix", "python", "toolchain", "pin") if name in values}
    return [
        Item(
            model=str(base / Path(model).expanduser()),
            device=json.dumps(device, sort_keys=True) if isinstance(device, dict) else device,
            overrides=overrides,
            opt=opt,
            **single,
        )
        for model, device, overrides, opt in itertools.product(
            _list(values["model"]),
            _list(values.get("device", "auto")),
            _list(values.get("overrides", {})),
            _list(values.get("opt", "")),
        )
    ]


def _checked(entry: dict[str, Any], where: str, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    for name, value in entry.items():
        if name not in KEYS or name in without:
            near = difflib.get_close_matches(name, KEYS, 1)
            remedy = f"Did you mean `{near[0]}`?" if near and near[0] != name else f"Known are {', '.join(KEYS)}."
            if name in without:
                remedy = f"It belongs below [[{ENTRY}]]."
            raise RequestError(f"{where}: `{name}` is not known here.", remedy=remedy)
        if not _fits(name, value):
            raise RequestError(f"{where}: `{name}` can't be {value!r}.", remedy=f"Write {KEYS[name]}.")
    return entry


def _fits(name: str, value: Any) -> bool:
    if name == "pin":
        return isinstance(value, bool)
    if name == "toolchain":
        return value in get_args(m.ToolchainChoice)
    if name in ("system_lib_prefix", "python"):
        return isinstance(value, str) and bool(value)
    each = _list(value)
    if not each:
        return False
    if name == "overrides":
        return all(isinstance(table, dict) and _are_overrides(table) for table in each)
    if name == "device":
        return all((isinstance(one, str) and one) or (isinstance(one, dict) and one) for one in each)
    return all(isinstance(one, str) and one for one in each)


def _are_overrides(table: dict[str, Any]) -> bool:
    return "opt" not in table and all(isinstance(value, bool | int | float | str) for value in table.values())


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
