"""TVM's script parser without what it does over and over: the same programs, in half the time.

Most of a model's graph is the parsing of kernels that are written in TVM's script. Three functions take half of that:

- each expression is turned into Python's own tree, compiled and evaluated, names and numbers too. Here a name is looked
  up, and code that was compiled once for an expression of the same form is evaluated again;
- a syntax tree is copied into TVM's own classes, each node being compared with what is no node;
- for each kernel the whole stack is described, with a line of source for each frame. One frame's line is looked at.

Values, errors and source positions are those of TVM's own functions, and `selfcheck` knows their text; any other TVM
parses its own way.
"""

from __future__ import annotations

import ast
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ENTRY = "tvm.tirx.script.parser.entry"
EVALUATOR = "tvm.script.parser.core.evaluator"
TREES = "tvm.script.parser.core.doc"
LOOKED_AT = 2
"""The one frame of a stack whose line is looked at: where the function stands that has a kernel in it."""

_NOTHING = object()


class _UnknownFormError(Exception):
    """An expression of a form that is not known here."""


def install() -> None:
    """Put them in their places, in an interpreter that has imported tvm.

    Raises:
        Exception: This TVM has no such places, or somebody else stands there; nothing was changed then.
    """
    import tvm.script.parser
    import tvm.tirx.script.parser.entry  # noqa: F401 - the modules of the next lines

    entry, evaluator, trees = sys.modules[ENTRY], sys.modules[EVALUATOR], sys.modules[TREES]
    for function, module in ((entry.prim_func, entry), (evaluator._eval_expr, evaluator), (trees.to_doc, trees)):  # noqa: SLF001
        if function.__code__.co_filename != module.__file__:
            raise RuntimeError(f"{function.__name__} was replaced by somebody else")
    if entry.inspect is not inspect:
        raise RuntimeError("inspect was replaced by somebody else")
    copied, evaluated = copier(trees), evaluation(evaluator, trees)
    evaluator._eval_expr = evaluated  # noqa: SLF001 - what its class calls
    trees.to_doc = copied
    entry.inspect = _Inspect("inspect")


def evaluation(evaluator: Any, trees: Any) -> Callable[[Any, dict[str, Any] | None], Any]:
    """A function in the place of the evaluator's `_eval_expr(node, names)`."""
    own = evaluator._eval_expr  # noqa: SLF001
    form, name, constant, load = _forms(trees.doc), trees.doc.Name, trees.doc.Constant, trees.doc.Load
    compiled: dict[Any, types.CodeType] = {}

    def evaluate(node: Any, names: dict[str, Any] | None) -> Any:
        kind = node.__class__
        if names is None:
            return own(node, names)
        if kind is name and node.ctx.__class__ is load:
            value = names.get(node.id, _NOTHING)
            if value is not _NOTHING:
                return value
        elif kind is constant:
            return node.value
        try:
            key = form(node)
            code = compiled.get(key)
            if code is None:
                tree = ast.fix_missing_locations(ast.Expression(body=trees.from_doc(node)))
                code = compiled[key] = compile(tree, filename="<ast>", mode="eval", dont_inherit=True)
        except Exception:  # noqa: BLE001 - an unknown form; what TVM says to it is TVM's
            return own(node, names)
        return eval(code, names)  # noqa: S307 - in a frame with these names, which TVM's macros look for

    return evaluate


def _forms(doc: Any) -> Callable[[Any], Any]:
    """A function that tells two expressions apart wherever their code would differ; source positions do not count."""
    call, attribute, subscript, sequences = doc.Call, doc.Attribute, doc.Subscript, (doc.Tuple, doc.List)
    load, places = doc.Load, {doc.Name, attribute, subscript, *sequences}

    def form(node: Any) -> Any:
        kind = node.__class__
        if kind in places and node.ctx.__class__ is not load:
            raise _UnknownFormError  # a target, which has no value
        if kind is doc.Name:
            return node.id
        if kind is doc.Constant:  # 1, 1.0 and True are equal, and three; so are 0.0 and -0.0 two
            return kind, node.value.__class__, repr(node.value)
        if kind is attribute:
            return kind, form(node.value), node.attr
        if kind is call:
            named = tuple([(each.arg, form(each.value)) for each in node.keywords])
            return kind, form(node.func), tuple([form(each) for each in node.args]), named
        if kind is subscript:
            return kind, form(node.value), form(node.slice)
        if kind in sequences:
            return kind, tuple([form(each) for each in node.elts])
        raise _UnknownFormError

    return form


def copier(trees: Any) -> Callable[[Any], Any]:
    """A function in the place of `to_doc(node)`, which copies a syntax tree into TVM's classes."""
    own = trees.to_doc
    plain = frozenset(map(type, (None, ..., True, 0, 0.0, 0j, "", b"")))
    plans = {}
    for name, entry in trees.Registry._inst.table.items():  # noqa: SLF001 - what there is
        how = entry.to_doc
        if type(how).__name__ == "DefaultTranslator" and how.func is own:
            plans[getattr(ast, name)] = how.doc_cls, tuple(how.fields)

    def copy(node: Any) -> Any:
        kind = node.__class__
        if kind in plain:
            return node
        if kind is list:
            return [copy(each) for each in node]
        plan = plans.get(kind)
        if plan is None:
            return own(node)
        made, fields = plan
        return made(**{field: copy(getattr(node, field, None)) for field in fields})

    failed = False

    def to_doc(node: Any) -> Any:
        nonlocal failed
        if not failed:
            try:
                return copy(node)
            except Exception:  # noqa: BLE001 - what TVM says to it is TVM's
                failed = True
        return own(node)

    return to_doc


class _Inspect(types.ModuleType):
    """`inspect`, with a `stack` that describes the one frame that is looked at; of the others, what they run."""

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)

    @staticmethod
    def stack(context: int = 1) -> list[inspect.FrameInfo]:
        """As `inspect.stack`, without the sources of the other frames."""
        found: list[inspect.FrameInfo] = []
        frame: types.FrameType | None = sys._getframe(1)  # noqa: SLF001 - as inspect does
        while frame is not None:
            if len(found) == LOOKED_AT:
                seen = inspect.getframeinfo(frame, context)
                found.append(inspect.FrameInfo(frame, *seen[:5]))
            else:
                code = frame.f_code
                found.append(inspect.FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
            frame = frame.f_back
        return found
