"""Where the functions of a module come from that are compiled apart: lowered already, or lowered a share at a time.

TVM lowers TIR function by function, pass after pass, on one core: a fifth of what code generation leaves. The passes
see one function each, but for a few that look at the whole module; what these do to a share is checked, and where it is
not what they do to the whole (`NotApartError`), the whole is lowered.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FEWEST = 2
"""Functions below which there is nothing to gain; of one alone TVM makes an entry function."""

NO_ALIAS = "tirx.noalias"
ENTRY = "tirx.is_entry_func"

DEFAULT = ("default", "s_tir", None)
"""Names of the pipeline whose text is known."""


class NotApartError(Exception):
    """These functions are not to be treated one by one; the text says why."""


@dataclass(frozen=True)
class Part:
    """What code generation is given.

    Attributes:
        functions: Name to variable and function.
        attributes: Of the module.
        target: Of the host.
    """

    functions: dict[str, tuple[Any, Any]]
    attributes: dict[str, Any]
    target: Any


class _Functions:
    """What is known of a module's functions as they come.

    Attributes:
        names: Of all of them.
        symbols: What each is called outside, empty for a private one. Lowering may change it.
        sizes: A guess at how they compare; nothing depends on it.
    """

    def __init__(self, mod: Any, target: Any) -> None:
        self._mod = mod
        self._whole = _part(mod, target)
        functions = self._whole.functions
        self.names = list(functions)
        self.symbols = {name: symbol(function) for name, (_, function) in functions.items()}
        # What is known without a walk, and the nearest to how long lowering one takes.
        self.sizes = {name: _size(len(function.params)) for name, (_, function) in functions.items()}

    def noalias(self, name: str) -> bool:
        """Whether a function has the attribute."""
        return bool(attribute(self._whole.functions[name][1], NO_ALIAS))


class Lowered(_Functions):
    """The functions of a module as `codegen_build` is given it.

    Args:
        mod: The module.
        target: Of the host.
        generate: `codegen_build`.
    """

    def __init__(self, mod: Any, target: Any, generate: Callable[[Any, Any], Any]) -> None:
        super().__init__(mod, target)
        self._generate = generate

    def part(self, names: Sequence[str]) -> Part:
        """Some of the functions."""
        whole = self._whole
        return Part({name: whole.functions[name] for name in names}, whole.attributes, whole.target)

    def empty(self) -> Any:
        """What is generated for none of them."""
        import tvm

        return self._generate(tvm.IRModule({}, attrs=self._mod.attrs), self._whole.target)


class Unlowered(_Functions):
    """The functions of a module as `tvm.tirx.build` is given it.

    Args:
        mod: The module.
        build: `tvm.tirx.build` for such a module.
        lower: The same, but that it ends with what `codegen_build` would be given: module and target of the host.
    """

    def __init__(self, mod: Any, build: Callable[[Any], Any], lower: Callable[[Any], tuple[Any, Any]]) -> None:
        super().__init__(mod, None)
        self._build, self._lower = build, lower

    def part(self, names: Sequence[str]) -> Part:
        """Some of the functions, lowered now, by themselves.

        Raises:
            NotApartError: They are not what they would be among the others.
        """
        import tvm

        wanted = list(names)
        if len(wanted) < FEWEST:
            wanted.append(min(set(self.names) - set(names), key=lambda name: (self.sizes[name], name)))
        functions = dict(self._whole.functions[name] for name in wanted)
        made = _part(*self._lower(tvm.IRModule(functions, attrs=self._mod.attrs)))
        if set(made.functions) != set(wanted):
            raise NotApartError("other functions come of lowering them")
        if any(attribute(function, ENTRY) for _, function in made.functions.values()):
            raise NotApartError("one of them is an entry function")
        return Part({name: made.functions[name] for name in names}, made.attributes, made.target)

    def empty(self) -> Any:
        """What is built of none of them."""
        import tvm

        return self._build(tvm.IRModule({}, attrs=self._mod.attrs))


def suits(mod: Any, target: Any, pipeline: Any) -> bool:
    """Whether functions may be lowered by themselves: for a host alone, by the known pipeline, seen by nobody."""
    import tvm
    from tvm.tirx import PrimFunc

    if len(mod.functions) < FEWEST or pipeline not in DEFAULT or target is None:
        return False
    whole = tvm.target.Target(target)
    kinds = {whole.kind.name, whole.host.kind.name if whole.host is not None else "llvm"}
    pipelines, own = (sys.modules.get(f"tvm.{name}") for name in ("tirx.compilation_pipeline", "s_tir.pipeline"))
    if pipelines is None or own is None or kinds != {"llvm"}:
        return False
    return (
        pipelines.PIPELINE_MAP.get("s_tir") is own.default_s_tir_pipeline
        and not tvm.transform.PassContext.current().instruments
        and all(isinstance(function, PrimFunc) for function in mod.functions.values())
    )


def symbol(function: Any) -> str:
    """What an exported function is called in its object; empty for a private one."""
    return str(attribute(function, "global_symbol") or "")


def attribute(function: Any, name: str) -> Any:
    """A function's attribute, None where it has none."""
    return function.attrs[name] if function.attrs is not None and name in function.attrs else None


def _size(params: int) -> int:
    return params**2 if params > 2 else 1  # noqa: PLR2004 - with two there is no more to do than to copy


def _part(mod: Any, target: Any) -> Part:
    functions = {str(variable.name_hint): (variable, function) for variable, function in mod.functions.items()}
    return Part(functions, {str(name): value for name, value in dict(mod.attrs or {}).items()}, target)
