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
