"""TVM's scripts parsed our way: the same programs, values and errors as TVM's own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tvm")
sys.path.insert(0, str(Path(__file__).parent))

import test_tvm_compile as tvm_compile

from mlc_jitd.toolchains import kernels

pytestmark = [pytest.mark.tvm, pytest.mark.timeout(120)]


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_models_functions_are_the_same_with_their_source_positions(tmp_path: Path, name: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tvm_compile.chat_config(**tvm_compile.MODELS[name])))
    script = Path(__file__).with_name("parsing_twice.py")
    done = subprocess.run(
        [sys.executable, "-P", script, config, tvm_compile.TARGET],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said.pop("functions") > 30
    assert all(found == [] for found in said.values()), said


SCRIPTS = [
    "x, y = (A[0], A[1])\nx, y = (y, x)\nA[0], A[1] = (x, y)",
    "t = T.meta_var((A[0], A[1]))\nA[0], A[1] = (A[1], A[0])",
    "A[0] = A[(*(1,),)[0]] + T.max(*(A[0], A[1]))",
    "A[(lambda q: q + 1)(0)] = 1\nfor i in T.serial(sum([1, 2])):\n    A[i] = T.Select(i < 1, 1, -1)",
    "A[0] = T.int32(1)\nA[1] = T.int32(True)\nA[2] = T.int32(-1)\nA[3] = T.int32(0x10)",
    "while A[0] < 3:\n    A[0] += 1\n    A[1] -= 2",
    "if A[0] == 1 and A[1] > 2 or not A[2] < 3:\n    A[0] = T.if_then_else(A[1] < 2, 1, 2)",
    "assert A[0] > 1, 'it must be'",
    "A[0] = 1 if SIDE > 3 else nowhere\nA[2] = 7 if 'x' else 8",
    "T.evaluate(T.call_extern('int32', 'n' + f'{SIDE}'))",
    "for i, j in T.grid(SIDE, SIDE):\n    A[i] = A[j]",
    "A[0] = T.int32(len([n for n in range(SIDE)]))",
    "A[0] = nowhere",
    "A[0] = T.nowhere(1)", "A[0] = thing.raises", "A[0, 0, 0] = 1", "A[1 // 0] = 1", "A[0] = A[1] = 3",
    "thing.size += 1", "for q in A[0]:\n    A[0] = q", "del A[0]", "A[0:2] = A[1:3] @ 2",
    "A[0] = T.int32(1, 2, 3, bogus=4)",
    "A[SIDE.size] = 1", "A[0] = 'text'", "B = T.match_buffer(a, (SIDE,), dtype='float32', bogus=1)", "A[0] = len(SIDE)",
]  # fmt: skip


def test_scripts_whole_and_broken_end_as_they_do_with_tvms_own_parser(tmp_path: Path) -> None:
    lines = [
        "from tvm.script import tirx as T",
        "SIDE = 4",
        "class Thing:\n    size = 3\n    @property\n    def raises(self):\n        raise KeyError('raised')",
        "thing = Thing()",
    ]
    for number, body in enumerate(SCRIPTS):
        inner = "".join(f"        {line}\n" for line in body.splitlines())
        lines.append(
            f"def script_{number}():\n    @T.prim_func(s_tir=True)\n    def f(a: T.handle):\n"
            f"        A = T.match_buffer(a, (SIDE,), 'int32')\n{inner}    return f\n"
        )
    (tmp_path / "scripts.py").write_text("\n".join(lines))
    script = Path(__file__).with_name("parsing_scripts.py")
    done = subprocess.run(
        [sys.executable, "-P", script, tmp_path], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said["differ"] == []
    errors = [found for found in said["own"].values() if not found.startswith("#")]
    assert len(errors) > 10, "these are broken"
    assert len(said["own"]) - len(errors) > 8, "and these are not"


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    """TVM's evaluator and trees, and our room; nothing is put in its place."""
    monkeypatch.syspath_prepend(str(kernels.LAUNCH.parent))
    import tvm.script.parser  # noqa: F401
    from mlc_jitd_kernels import parsing

    return sys.modules[parsing.EVALUATOR], sys.modules[parsing.TREES], parsing


class Thing:
    size = 3

    def __call__(self, *given: Any, **named: Any) -> tuple[Any, ...]:
        return given, tuple(named.items())


NAMES = {"thing": Thing(), "row": [1, 2.5, (3, 4)], "T": math, "a": 1, "b": "text", "none": None}
EXPRESSIONS = [
    "a", "b", "none", "row", "len", "1", "1.0", "True", "0.0", "-0.0", "1j", "'1'", "b'1'", "...", "None",
    "row[0]", "row[True]", "row[1]", "row[0:2]", "row[2][1]", "row[-1]", "thing.size", "T.pi", "T.floor(2.5)",
    "thing(1)", "thing(1.0)", "thing(True)", "thing(0.0)", "thing(-0.0)", "thing(a, b, x=row, y=1)", "thing(x=1, y=2)",
    "thing(y=2, x=1)", "thing(*row)", "thing(**{'x': 1})", "thing((1, a))", "thing([1, a])", "thing((lambda: 1)())",
    "[a, 1]", "(a, 1.0)", "(a, 1)", "{'x': a}", "{a}", "[x for x in row]", "a if b else none", "a < 2", "not a",
    "a + 1", "f'{a}'", "unknown", "thing.unknown", "row[9]", "a()", "thing(unknown)", "T.floor()", "float('nan')",
]  # fmt: skip


def outcome(evaluate: Any, tree: Any) -> str:
    names = dict(NAMES)
    try:
        value = evaluate(tree, names)
    except Exception as error:  # noqa: BLE001 - both must raise the same
        return f"{type(error).__name__}: {error}"
    assert {name: value for name, value in names.items() if name != "__builtins__"} == NAMES
    return f"{type(value).__name__} {value}" if not callable(value) else f"{type(value).__name__}"


def test_values_and_errors_are_those_of_tvms_evaluator(parsers: tuple[Any, Any, Any]) -> None:
    evaluator, trees, parsing = parsers
    ours = parsing.evaluation(evaluator, trees)
    for _again in range(2):
        for text in EXPRESSIONS:
            tree = trees.parse(text, mode="eval").body
            assert outcome(ours, tree) == outcome(evaluator._eval_expr, tree), text
    tree = trees.parse("1 + 1", mode="eval")
    assert ours(tree, None) == 2, "a whole expression, without names"


def test_what_is_no_value_is_left_to_tvms_evaluator(parsers: tuple[Any, Any, Any]) -> None:
    evaluator, trees, parsing = parsers
    ours = parsing.evaluation(evaluator, trees)
    loaded = trees.parse("row[0]", mode="eval").body
    assert ours(loaded, NAMES) == 1
    for text in ("row[0] = 1", "a = 1", "thing.size = 1", "a, b = 1, 2"):
        (target,) = trees.parse(text).body[0].targets
        said = outcome(ours, target)
        assert said == outcome(evaluator._eval_expr, target)
        assert "must have Load context" in said


def test_a_node_that_we_stumble_over_is_left_to_tvms_evaluator(parsers: tuple[Any, Any, Any]) -> None:
    evaluator, trees, parsing = parsers
    ours = parsing.evaluation(evaluator, trees)
    tree = trees.parse("thing(1)", mode="eval").body
    tree.keywords = None
    assert outcome(ours, tree) == outcome(evaluator._eval_expr, tree)


def test_trees_are_copied_as_tvm_does(parsers: tuple[Any, Any, Any]) -> None:
    import ast

    _, trees, parsing = parsers
    copy = parsing.copier(trees)

    def flat(node: Any) -> Any:
        if isinstance(node, list | tuple):
            return [type(node).__name__, *map(flat, node)]
        if not isinstance(node, trees.doc.AST):
            return type(node).__name__, repr(node)
        return type(node).__name__, [(field, flat(getattr(node, field))) for field in type(node)._FIELDS]

    text = Path(__file__).read_text()
    for source in (
        text,
        "try:\n    x = -1j\nexcept E as e: ...\nelse: del x[::2, ...]",
        "def f(*a, b: int = 1, **c): return (yield)",
    ):
        tree = ast.parse(source)
        assert flat(copy(tree)) == flat(trees.to_doc(tree))


def test_only_the_frame_that_is_looked_at_is_described(parsers: tuple[Any, Any, Any]) -> None:
    import inspect

    _, _, parsing = parsers
    stand_in = parsing._Inspect("inspect")

    def kernel() -> tuple[Any, Any]:
        return inspect.stack(), stand_in.stack()

    def outer() -> tuple[Any, Any]:
        return kernel()

    own, ours = outer()
    assert [each.frame for each in ours] == [each.frame for each in own]
    assert [each.function for each in ours] == [each.function for each in own]
    assert [each.lineno for each in ours] == [each.lineno for each in own]
    assert [each.code_context for each in ours[:4]] == [None, None, own[2].code_context, None]
    assert "outer()" in ours[2].code_context[0]
    assert stand_in.isfunction is inspect.isfunction


def test_who_was_replaced_by_somebody_else_stays(
    parsers: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator, trees, parsing = parsers
    monkeypatch.setattr(evaluator, "_eval_expr", lambda *_: None)
    before = trees.to_doc
    with pytest.raises(RuntimeError, match="was replaced by somebody else"):
        parsing.install()
    assert trees.to_doc is before
