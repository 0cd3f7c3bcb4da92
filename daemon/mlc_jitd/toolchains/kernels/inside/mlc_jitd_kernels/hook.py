"""In the place of TVM's lowering and code generation for the host, while an executable is linked.

Two points: `tvm.tirx.build(mod, target, pipeline)`, which lowers the TIR functions of an executable and has code
generated for them, and in it `codegen_build(mod, target)`, which is called once for the host's functions. Instead of
one LLVM module of all functions each returns an empty one with the objects imported as static libraries;
`export_library` hands all of them to the linker. Only inside `relax.vm_build._vmlink`: elsewhere (constant folding)
what is built is run in this process, which a static library can't be. The first point is taken where functions may be
lowered apart, else the second one. Whatever goes wrong here, TVM's own step does it.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from typing import TYPE_CHECKING, Any

from . import lowering
from .apart import Settings, compile_apart
from .lowering import ENTRY, FEWEST, Lowered, NotApartError, Unlowered, attribute
from .nodes import UnknownNodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .report import Report

__all__ = ["Settings", "install"]

DEPTH = 20_000
"""How deeply TIR may be nested."""


class _Caught(BaseException):
    """Code generation was reached."""


def install(settings: Settings, report: Report, *, lower: bool = True) -> None:
    """Put it in its place, in an interpreter that has imported tvm.

    Args:
        settings: What the daemon says.
        report: Counts.
        lower: Whether functions may be lowered apart as well.

    Raises:
        Exception: This TVM has no such place; nothing was changed then.
    """
    import tvm.relax.vm_build
    import tvm.tirx

    build, link = sys.modules["tvm.tirx.build"], sys.modules["tvm.relax.vm_build"]
    own, own_link, own_build = build.codegen_build, link._vmlink, tvm.tirx.build  # noqa: SLF001
    for function, module, arguments in (
        (own, build, ("mod", "target")),
        (own_link, link, ("builder", "target")),
        (own_build, build, ("mod", "target", "pipeline")),
    ):
        code = function.__code__
        if code.co_filename != module.__file__ or code.co_varnames[: len(arguments)] != arguments:
            raise RuntimeError(f"{function.__name__} was replaced by somebody else")
    taken = _Taken(settings, report, own, own_build, lower=lower)

    def vmlink(*args: Any, **kwargs: Any) -> Any:
        with taken.linking():
            return own_link(*args, **kwargs)

    def tirx_build(mod: Any, target: Any = None, pipeline: Any = "default") -> Any:
        return taken.build(mod, target, pipeline)

    def codegen_build(mod: Any, target: Any) -> Any:
        return taken.generate(mod, target)

    build.codegen_build = codegen_build
    tvm.tirx.build = tirx_build
    link._vmlink = vmlink  # noqa: SLF001


class _Taken:
    """Lowering and code generation, taken over."""

    def __init__(
        self,
        settings: Settings,
        report: Report,
        own: Callable[[Any, Any], Any],
        own_build: Callable[..., Any],
        *,
        lower: bool,
    ) -> None:
        self._settings = settings
        self._report = report
        self._own = own
        self._own_build = own_build
        self._lower = lower
        self._depth = 0
        self._catching: list[tuple[Any, Any]] | None = None
        self._given_up = False

    @contextlib.contextmanager
    def linking(self) -> Iterator[None]:
        """While an executable is linked."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def build(self, mod: Any, target: Any, pipeline: Any) -> Any:
        """`tvm.tirx.build` for everybody."""

        def own(part: Any) -> Any:
            return self._own_build(part, target=target, pipeline=pipeline)

        def lower(part: Any) -> tuple[Any, Any]:
            self._catching = []
            try:
                own(part)
            except _Caught:
                return self._catching[0]
            finally:
                self._catching = None
            raise NotApartError("no code is generated for them")

        if not self._depth or not self._lower or not lowering.suits(mod, target, pipeline):
            return own(mod)
        try:
            return self._tried(lambda: Unlowered(mod, own, lower), lambda: own(mod))
        except NotApartError:
            return own(mod)  # the whole, and `generate` is asked

    def generate(self, mod: Any, target: Any) -> Any:
        """`codegen_build` for everybody."""
        if self._catching is not None:
            self._catching.append((mod, target))
            raise _Caught
        if not self._depth or self._given_up or target.kind.name != "llvm" or len(mod.functions) < FEWEST:
            return self._own(mod, target)
        try:
            return self._tried(lambda: self._lowered(mod, target), lambda: self._own(mod, target))
        except NotApartError as error:
            self._report.plain(str(error))
            self._report.write(self._settings.new)
            return self._own(mod, target)

    def _lowered(self, mod: Any, target: Any) -> Lowered:
        if sum(bool(attribute(function, ENTRY)) for function in mod.functions.values()) > 1:
            raise NotApartError("the module has several entry functions")
        return Lowered(mod, target, self._own)

    def _tried(self, source: Callable[[], Lowered | Unlowered], otherwise: Callable[[], Any]) -> Any:
        """Compile apart; where that fails, as if it had not been tried.

        Raises:
            NotApartError: It need not be tried.
        """
        limit = sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(max(limit, DEPTH))
            return compile_apart(source(), self._settings, self._report, self._own)
        except NotApartError:
            raise
        except UnknownNodeError as error:
            self._report.plain(f"what reaches code generation can't be seen whole: {error}")
        except Exception:  # noqa: BLE001 - never worse than without
            traceback.print_exc()
            self._report.failures += 1
            self._report.plain("it failed, see above; this compile goes on as if it had not been tried")
        finally:
            sys.setrecursionlimit(limit)
            self._report.write(self._settings.new)
        self._given_up = True
        try:
            return otherwise()
        finally:
            self._given_up = False
