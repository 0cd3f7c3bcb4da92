"""In the place of TVM's code generation for the host, while an executable is linked: kernel by kernel.

The one point: `tvm.tirx.build.codegen_build(mod, target)`, which `tir_to_runtime` calls once for the host's functions.
Instead of one LLVM module of all functions it returns an empty one with the objects imported as static libraries;
`export_library` hands all of them to the linker. Only inside `relax.vm_build._vmlink`: elsewhere (constant folding)
what is built is run in this process, which a static library can't be. Whatever goes wrong here, TVM's own step does it.
"""

# ruff: noqa: PTH103, PTH108, PTH118, PTH123
from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import keys, objects, workers
from .groups import bundles, groups, heaviest_first
from .nodes import Text, UnknownNodeError, Writer
from .report import Report, line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FEWEST = 2
"""Functions below which there is nothing to gain."""

NO_ALIAS = "tirx.noalias"

SHARED_CODE = "pragma_import_llvm"
"""An attribute that brings code into the module for every function of it."""

DEPTH = 20_000
"""How deeply TIR may be nested."""


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


@dataclass(frozen=True)
class Group:
    """Functions that are compiled together; `key` is empty where there is none."""

    functions: tuple[str, ...]
    symbols: tuple[str, ...]
    weight: int
    key: str = ""


def install(settings: Settings, report: Report) -> None:
    """Put it in its place, in an interpreter that has imported tvm.

    Raises:
        Exception: This TVM has no such place; nothing was changed then.
    """
    import tvm.relax.vm_build
    import tvm.tirx  # noqa: F401 - the module of the next line

    build, link = sys.modules["tvm.tirx.build"], sys.modules["tvm.relax.vm_build"]
    own, own_link = build.codegen_build, link._vmlink  # noqa: SLF001 - the narrowest point
    for function, module, arguments in ((own, build, ("mod", "target")), (own_link, link, ("builder", "target"))):
        code = function.__code__
        if code.co_filename != module.__file__ or code.co_varnames[:2] != arguments:
            raise RuntimeError(f"{function.__name__} was replaced by somebody else")
    taken = _Taken(settings, report, own)

    def vmlink(*args: Any, **kwargs: Any) -> Any:
        with taken.linking():
            return own_link(*args, **kwargs)

    def codegen_build(mod: Any, target: Any) -> Any:
        return taken.build(mod, target)

    build.codegen_build = codegen_build
    link._vmlink = vmlink  # noqa: SLF001


class _Taken:
    """Code generation, taken over."""

    def __init__(self, settings: Settings, report: Report, own: Callable[[Any, Any], Any]) -> None:
        self._settings = settings
        self._report = report
        self._own = own
        self._depth = 0
        self._objects = os.path.join(settings.new, "objects")
        self._kernels = os.path.join(settings.new, "kernels")

    @contextlib.contextmanager
    def linking(self) -> Iterator[None]:
        """While an executable is linked."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def build(self, mod: Any, target: Any) -> Any:
        """`codegen_build` for everybody."""
        if not self._depth or target.kind.name != "llvm" or len(mod.functions) < FEWEST:
            return self._own(mod, target)
        limit = sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(max(limit, DEPTH))
            unsuited = _unsuited(mod, target)
            if not unsuited:
                return self._build(mod, target)
            self._report.plain(unsuited)
        except UnknownNodeError as error:
            self._report.plain(f"what reaches code generation can't be seen whole: {error}")
        except Exception:  # noqa: BLE001 - never worse than without
            traceback.print_exc()
            self._report.failures += 1
            self._report.plain("it failed, see above; this compile goes on as if it had not been tried")
        finally:
            sys.setrecursionlimit(limit)
            self._report.write(self._settings.new)
        return self._own(mod, target)

    def _build(self, mod: Any, target: Any) -> Any:
        import tvm

        attributes = {str(name): value for name, value in dict(mod.attrs or {}).items() if name not in keys.NOT_SEEN}
        functions = _as_in_one_module(
            {str(variable.name_hint): (variable, function) for variable, function in mod.functions.items()}
        )
        found = self._groups(functions, target, attributes)
        os.makedirs(self._objects, exist_ok=True)
        os.makedirs(self._kernels, exist_ok=True)
        known = {number: kernel for number, group in enumerate(found) if (kernel := self._known(number, group))}
        report = self._report
        report.way, report.kernels = "kernels", len(found)
        report.reused = [kernel.key for kernel in known.values()]
        report.saved = round(sum(kernel.seconds for kernel in known.values()), 3)
        ready = len(known)
        line(f"{ready}/{len(found)}, {len(known)} reused")

        def compile_one(number: int) -> bool:
            group = found[number]
            part = tvm.IRModule(dict(functions[name] for name in group.functions), attrs=attributes or None)
            return self._compile(number, group, lambda: self._own(part, target))

        def done(number: int, kept: bool, seconds: float) -> None:
            nonlocal ready
            ready += 1
            report.spent = round(report.spent + seconds, 3)
            if kept:
                report.made.append(found[number].key)
            elif found[number].key:
                report.unkept += 1
            line(f"{ready}/{len(found)}, {len(known)} reused")

        weights = {number: group.weight for number, group in enumerate(found) if number not in known}
        workers.run(heaviest_first(weights), self._settings.workers, compile_one, done)
        main = self._own(tvm.IRModule({}, attrs=mod.attrs), target)
        for number, group in enumerate(found):
            path = self._object(number)
            main.import_module(tvm.runtime.load_static_library(path, list(group.symbols)))
            os.unlink(path)  # its bytes are held
        return main

    def _groups(self, functions: dict[str, Any], target: Any, attributes: dict[str, Any]) -> list[Group]:
        """What is compiled apart, with keys where the surroundings could be seen.

        Raises:
            UnknownNodeError: A function could not be seen whole: what it calls is not known either.
        """
        writer = Writer()

        def read(name: str) -> tuple[str, int, list[str]]:
            text = writer.text(functions[name][1])
            return text.digest, text.weight, sorted(text.names)

        said = workers.share_out(list(functions), self._settings.workers, read)
        texts = {name: Text(digest, weight, frozenset(names)) for name, (digest, weight, names) in said.items()}
        if any(SHARED_CODE in text.names for text in texts.values()):
            raise UnknownNodeError(f"a function has {SHARED_CODE}, which is for all of its module")
        try:
            shared = keys.surroundings(writer, self._settings.identity, target, attributes)
        except UnknownNodeError as error:
            shared = ""
            line(f"none is kept: {error}")
        symbols = {name: _symbol(function) for name, (_, function) in functions.items()}
        aliases = {**{symbol: name for name, symbol in symbols.items() if symbol}, **{name: name for name in functions}}
        named = {name: texts[name].names - {name, symbols[name]} for name in functions}
        found = []
        for members in bundles(groups(named, aliases), {name: text.weight for name, text in texts.items()}):
            key = keys.key(shared, [(name, texts[name].digest) for name in members]) if shared else ""
            exported = tuple(symbols[name] for name in members if symbols[name])
            found.append(Group(members, exported, sum(texts[name].weight for name in members), key))
        self._report.unkeyed = sum(not group.key for group in found)
        return found

    def _known(self, number: int, group: Group) -> objects.Kernel | None:
        """A group's kernel from the store, its object laid ready."""
        if not group.key:
            return None
        try:
            path = os.path.join(self._settings.store, group.key[:2], group.key)
            kernel = objects.read(path, group.key, group.symbols)
        except FileNotFoundError:
            return None
        except (objects.DamagedKernelError, OSError) as error:
            self._report.damaged.append(group.key)
            line(f"{group.key[:12]} is compiled anew: {error}")
            return None
        with open(self._object(number), "wb") as file:
            file.write(kernel.data)
        return kernel

    def _compile(self, number: int, group: Group, generate: Callable[[], Any]) -> bool:
        """Make a group's object, and a kernel for the store; whether the latter could be written. In a child."""
        began = time.process_time()
        path = self._object(number)
        generate().write_to_file(path)
        seconds = time.process_time() - began
        if not group.key:
            return False
        try:
            with open(path, "rb") as file:
                kernel = objects.Kernel(group.key, group.symbols, seconds, file.read())
            objects.write(os.path.join(self._kernels, group.key), kernel)
        except OSError as error:
            line(f"{group.key[:12]} can't be kept: {error}")
            return False
        return True

    def _object(self, number: int) -> str:
        return os.path.join(self._objects, f"{number}.o")


def _unsuited(mod: Any, target: Any) -> str:
    """Why a module is left to TVM, empty if it is not."""
    from tvm.tirx import PrimFunc

    triple = str(target.attrs.get("mtriple", ""))
    if "linux" not in triple:
        return f"objects for {triple or 'an unnamed system'} were not tried"
    if not all(isinstance(function, PrimFunc) for function in mod.functions.values()):
        return "the module has more than TIR functions"
    if sum(bool(_attribute(function, "tirx.is_entry_func")) for function in mod.functions.values()) > 1:
        return "the module has several entry functions"
    return ""


def _as_in_one_module(functions: dict[str, Any]) -> dict[str, Any]:
    """Functions with the one `noalias` that all of them have when they are generated in one module.

    TVM's LLVM code generation notes this attribute when it *declares* a function, and declares all of them, by symbol,
    before it generates the first: the last one's value holds for all (`CodeGenLLVM::is_restricted_`, 0.26 and 0.27). It
    decides what LLVM may reorder and vectorise, so a function compiled apart with its own value would be another one.
    """
    last = max(functions, key=lambda name: (_symbol(functions[name][1]) or f"_internal_{name}").encode())
    wanted = bool(_attribute(functions[last][1], NO_ALIAS))
    found = {}
    for name, (variable, function) in functions.items():
        if bool(_attribute(function, NO_ALIAS)) != wanted:
            function = function.with_attr(NO_ALIAS, True) if wanted else function.without_attr(NO_ALIAS)  # noqa: PLW2901
        found[name] = (variable, function)
    return found


def _attribute(function: Any, name: str) -> Any:
    return function.attrs[name] if function.attrs is not None and name in function.attrs else None


def _symbol(function: Any) -> str:
    """What an exported function is called in its object; empty for a private one."""
    return str(_attribute(function, "global_symbol") or "")
