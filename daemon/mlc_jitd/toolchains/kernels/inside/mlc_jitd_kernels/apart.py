"""The functions of a module, compiled apart by a crew: what a member does, and who does what.

A member is asked three times: to take some functions, to write them down, and to compile groups of functions, those
that it took as far as may be. What all of them need to know of each other's goes through this process.
"""

# ruff: noqa: PTH103, PTH108, PTH118, PTH123
from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from . import keys, objects
from .groups import bundles, groups, units
from .lowering import NO_ALIAS, Lowered, NotApartError, Part, Unlowered, attribute, symbol
from .nodes import Text, UnknownNodeError, Writer
from .report import line
from .workers import Crew

if TYPE_CHECKING:
    from collections.abc import Callable

    from .report import Report

SHARED_CODE = "pragma_import_llvm"
"""An attribute that brings code into the module for every function of it."""


@dataclass(frozen=True)
class Settings:
    """What the daemon says.

    Attributes:
        store: Folder of known kernels, to be read only.
        new: Folder of this compile alone: new kernels, objects and the report go there.
        identity: The build of TVM.
        workers: How many children at a time.
        device_identity: The whole toolchain with its host tools, nvcc among them; empty where that is not known.
    """

    store: str
    new: str
    identity: str
    workers: int
    device_identity: str = ""

    @property
    def kernels(self) -> str:
        """Folder of new kernels."""
        return os.path.join(self.new, "kernels")

    @property
    def objects(self) -> str:
        """Folder of objects, until they are linked."""
        return os.path.join(self.new, "objects")

    def object(self, number: int) -> str:
        """Where the object of a group lies."""
        return os.path.join(self.objects, f"{number}.o")


@dataclass(frozen=True)
class Group:
    """Functions that are compiled together.

    Attributes:
        functions: Their names.
        symbols: Of those that are exported.
        digests: Of each function's text, in the order of their names.
        weight: See `Text`.
        key: Empty where there is none.
    """

    functions: tuple[str, ...]
    symbols: tuple[str, ...]
    digests: tuple[str, ...]
    weight: int
    key: str = ""


def compile_apart(
    source: Lowered | Unlowered, settings: Settings, report: Report, generate: Callable[[Any, Any], Any]
) -> Any:
    """Compile every function of a module, or take it from the store.

    Args:
        source: The module.
        settings: What the daemon says.
        report: Counts.
        generate: `codegen_build`.

    Returns:
        A runtime module that has all of them.

    Raises:
        NotApartError: They have to be treated as one.
        UnknownNodeError: A function could not be seen whole: what it calls is not known either.
        WorkerError: A child died.
    """
    import tvm

    os.makedirs(settings.objects, exist_ok=True)
    os.makedirs(settings.kernels, exist_ok=True)
    member = Member(source, settings, generate)
    size = min(settings.workers, len(units(source.names)))
    with Crew(size, member.answer, (NotApartError, UnknownNodeError)) as crew:
        said = _take(crew, source)
        found = _groups(said, source)
        report.unkeyed = sum(not group.key for group in found)
        report.lowered = len(source.names) if isinstance(source, Unlowered) else 0
        _compile(crew, said, found, settings, report)
    main = source.empty()
    for number, group in enumerate(found):
        path = settings.object(number)
        main.import_module(tvm.runtime.load_static_library(path, list(group.symbols)))
        os.unlink(path)  # its bytes are held
    return main


class Member:
    """What one of a crew does, with what it did before in mind."""

    def __init__(self, source: Lowered | Unlowered, settings: Settings, generate: Callable[[Any, Any], Any]) -> None:
        self._source, self._settings, self._generate = source, settings, generate
        self._part = Part({}, {}, None)
        self._writer = Writer()
        self._restricted = False

    def answer(self, question: dict[str, Any]) -> Any:
        """What this process is asked.

        Raises:
            NotApartError: See `compile_apart`.
            UnknownNodeError: Likewise.
        """
        what, *rest = question["do"]
        return {"take": self._take, "restrict": self._restrict, "compile": self._compile}[what](*rest)

    def _take(self, names: list[str], restricted: bool) -> dict[str, Any]:
        """Have these functions as well from now on, with the `noalias` that all are to have; say what they are."""
        self._restricted = restricted
        part = self._source.part(names)
        _check(part)
        own = {name: bool(attribute(function, NO_ALIAS)) for name, (_, function) in part.functions.items()}
        part = _restrict(part, restricted)
        self._part = Part(self._part.functions | part.functions, part.attributes, part.target)
        return {**self._surroundings(), "functions": self._written(names), "noalias": own}

    def _restrict(self, restricted: bool) -> dict[str, Any]:
        """Give what it has another `noalias`."""
        self._restricted = restricted
        self._part = _restrict(self._part, restricted)
        return {"functions": self._written(list(self._part.functions))}

    def _written(self, names: list[str]) -> dict[str, tuple[str, str, int, list[str]]]:
        """Symbol, digest, weight and names of functions that it has."""
        found = {}
        for name in names:
            function = self._part.functions[name][1]
            text = self._writer.text(function)
            found[name] = symbol(function), text.digest, text.weight, sorted(text.names)
        return found

    def _surroundings(self) -> dict[str, str]:
        part = self._part
        try:
            shared = keys.surroundings(self._writer, self._settings.identity, part.target, _seen(part.attributes))
        except UnknownNodeError as error:
            return {"shared": "", "why": str(error)}
        return {"shared": shared, "why": ""}

    def _compile(self, number: int, group: dict[str, Any], restricted: bool) -> tuple[bool, float]:
        """Make a group's object, and a kernel for the store. Whether the latter was written, and processor seconds."""
        import tvm

        began = time.process_time()
        self._restricted = restricted  # who was forked after the others took theirs was never told
        part = self._functions(group["functions"], group["digests"])
        module = tvm.IRModule(dict(part.functions.values()), attrs=_seen(part.attributes) or None)
        path = self._settings.object(number)
        generating = time.process_time()
        self._generate(module, part.target).write_to_file(path)
        seconds = time.process_time() - generating
        kept = bool(group["key"]) and self._keep(group["key"], tuple(group["symbols"]), path, seconds)
        return kept, time.process_time() - began

    def _functions(self, names: list[str], digests: list[str]) -> Part:
        """Functions of a group; what another member took is made here once more."""
        missing = [name for name in names if name not in self._part.functions]
        try:
            part = _restrict(self._source.part(missing), self._restricted) if missing else self._part
        except NotApartError as error:
            raise RuntimeError(f"now, and not when they were taken: {error}") from error
        for name, digest in zip(names, digests, strict=True):
            if name in missing and self._writer.text(part.functions[name][1]).digest != digest:
                raise RuntimeError(f"{name} is not the same function when it is lowered again")
        held = self._part.functions | part.functions
        return Part({name: held[name] for name in names}, part.attributes, part.target)

    def _keep(self, key: str, symbols: tuple[str, ...], path: str, seconds: float) -> bool:
        try:
            with open(path, "rb") as file:
                kernel = objects.Kernel(key, symbols, seconds, file.read())
            objects.write(os.path.join(self._settings.kernels, key), kernel)
        except OSError as error:
            line(f"{key[:12]} can't be kept: {error}")
            return False
        return True


@dataclass
class _Written:
    """What the crew said of the functions.

    Attributes:
        taken: The functions that each member has.
        restricted: The `noalias` that all functions are to have.
        shared: From `keys.surroundings`, all that were said.
        why: There is none.
    """

    taken: list[list[str]]
    symbols: dict[str, str] = field(default_factory=dict)
    texts: dict[str, Text] = field(default_factory=dict)
    noalias: dict[str, bool] = field(default_factory=dict)
    restricted: bool = False
    shared: set[str] = field(default_factory=set)
    why: str = ""

    def hear(self, functions: dict[str, tuple[str, str, int, list[str]]]) -> None:
        for name, (exported, digest, weight, names) in functions.items():
            self.symbols[name] = exported
            self.texts[name] = Text(digest, weight, frozenset(names))


def _take(crew: Crew, source: Lowered | Unlowered) -> _Written:
    """Have every function taken by somebody, and written down with the `noalias` that all of them are to have."""
    said = _Written([[] for _ in range(crew.size)])
    guess = source.noalias(_last(source.symbols))
    left = sorted(units(source.names), key=lambda unit: sum(source.sizes[name] for name in unit))

    def choose(member: int) -> Any:
        if not left:
            return None
        said.taken[member] += left[-1]
        return {"do": ("take", left.pop(), guess)}

    def done(_: Any, answer: Any) -> None:
        said.hear(answer["functions"])
        said.noalias |= answer["noalias"]
        said.shared.add(answer["shared"])
        said.why = answer["why"]

    crew.hand_out(choose, done)
    said.restricted = said.noalias[_last(said.symbols)]
    if said.restricted != guess:
        for answer in crew.ask([{"do": ("restrict", said.restricted)}] * crew.size):
            said.hear(answer["functions"])
    return said


def _groups(said: _Written, source: Lowered | Unlowered) -> list[Group]:
    """What is compiled apart, with keys where the surroundings could be seen."""
    symbols, texts = said.symbols, said.texts
    if any(SHARED_CODE in text.names for text in texts.values()):
        raise UnknownNodeError(f"a function has {SHARED_CODE}, which is for all of its module")
    if len(said.shared) > 1:
        raise NotApartError("what they share is not the same everywhere")
    (shared,) = said.shared
    if not shared:
        line(f"none is kept: {said.why}")
    aliases = {**{symbol: name for name, symbol in symbols.items() if symbol}, **{name: name for name in texts}}
    named = {name: texts[name].names - {name, symbols[name]} for name in source.names}
    connected = groups(named, aliases)
    lowered = {name: number for number, unit in enumerate(units(source.names)) for name in unit}
    if isinstance(source, Unlowered) and any(len({lowered[name] for name in each}) > 1 for each in connected):
        raise NotApartError("some name each other")
    found = []
    for members in bundles(connected, {name: text.weight for name, text in texts.items()}):
        exported = tuple(symbols[name] for name in members if symbols[name])
        digests = tuple(texts[name].digest for name in members)
        key = keys.key(shared, list(zip(members, digests, strict=True))) if shared else ""
        found.append(Group(members, exported, digests, sum(texts[name].weight for name in members), key))
    return found


def _compile(crew: Crew, said: _Written, found: list[Group], settings: Settings, report: Report) -> None:
    """Lay an object ready for each group: known, or compiled now."""
    known = {
        number: kernel for number, group in enumerate(found) if (kernel := _known(number, group, settings, report))
    }
    report.way, report.kernels = "kernels", len(found)
    report.reused = [kernel.key for kernel in known.values()]
    report.saved = round(sum(kernel.seconds for kernel in known.values()), 3)
    ready = len(known)
    line(f"{ready}/{len(found)}, {len(known)} reused")
    left = {number: group.weight for number, group in enumerate(found) if number not in known}
    if crew.forked:
        crew.grow(min(settings.workers, len(left)))
    homes = {number: _home(found[number], said.taken) for number in left}

    def choose(member: int) -> Any:
        if not left:
            return None
        heaviest = max(left, key=lambda number: (left[number], -number))
        at_home = [number for number in left if homes[number] == member]
        own = max(at_home, key=lambda number: (left[number], -number), default=heaviest)
        number = own if 2 * left[own] >= left[heaviest] else heaviest
        del left[number]
        return {"do": ("compile", number, asdict(found[number]), said.restricted)}

    def done(question: Any, answer: Any) -> None:
        nonlocal ready
        group = found[question["do"][1]]
        kept, seconds = answer
        ready += 1
        report.spent = round(report.spent + seconds, 3)
        if kept:
            report.made.append(group.key)
        elif group.key:
            report.unkept += 1
        line(f"{ready}/{len(found)}, {len(known)} reused")

    crew.hand_out(choose, done)


def _home(group: Group, taken: list[list[str]]) -> int:
    """Who took most of a group's functions."""
    return max(range(len(taken)), key=lambda member: sum(name in taken[member] for name in group.functions))


def _known(number: int, group: Group, settings: Settings, report: Report) -> objects.Kernel | None:
    """A group's kernel from the store, its object laid ready."""
    if not group.key:
        return None
    try:
        kernel = objects.read(os.path.join(settings.store, group.key[:2], group.key), group.key, group.symbols)
    except FileNotFoundError:
        return None
    except OSError as error:
        line(f"{group.key[:12]} is compiled anew: {error}")
        return None
    except objects.DamagedKernelError as error:
        report.damaged.append(group.key)
        line(f"{group.key[:12]} is compiled anew: {error}")
        return None
    with open(settings.object(number), "wb") as file:
        file.write(kernel.data)
    return kernel


def _check(part: Part) -> None:
    """Raises NotApartError where functions are left to TVM."""
    from tvm.tirx import PrimFunc

    triple = str(part.target.attrs.get("mtriple", ""))
    if "linux" not in triple:
        raise NotApartError(f"objects for {triple or 'an unnamed system'} were not tried")
    if not all(isinstance(function, PrimFunc) for _, function in part.functions.values()):
        raise NotApartError("the module has more than TIR functions")


def _last(symbols: dict[str, str]) -> str:
    """The function that TVM's LLVM code generation declares last.

    It notes the attribute `noalias` when it *declares* a function, and declares all of them, by symbol, before it
    generates the first: the last one's value holds for all (`CodeGenLLVM::is_restricted_`, 0.26 and 0.27). It decides
    what LLVM may reorder and vectorise, so a function compiled apart with its own value would be another one.
    """
    return max(symbols, key=lambda name: (symbols[name] or f"_internal_{name}").encode())


def _restrict(part: Part, wanted: bool) -> Part:
    """Functions with the one `noalias` that all have when they are generated in one module."""
    found = {}
    for name, (variable, function) in part.functions.items():
        changed = function
        if bool(attribute(function, NO_ALIAS)) != wanted:
            changed = function.with_attr(NO_ALIAS, True) if wanted else function.without_attr(NO_ALIAS)
        found[name] = (variable, changed)
    return Part(found, part.attributes, part.target)


def _seen(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in keys.NOT_SEEN}
