"""Parses a model's scripts TVM's own way, then ours, in one process, and says where the two differ.

    python parsing_twice.py CONFIG TARGET

A helper of test_parsing.py. Prints JSON: how many functions there were, which differ, which in source positions, and
which of them have none.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TOOLCHAINS = Path(__file__).parents[3] / "daemon/mlc_jitd/toolchains"
sys.path[:0] = [str(TOOLCHAINS / "tvm/inside"), str(TOOLCHAINS / "kernels/inside")]

import tvm
import tvm_ffi
from mlc_jitd_kernels import parsing
from mlc_jitd_tvm import attention, extras, kernels, targets
from mlc_jitd_tvm import config as configs
from mlc_jitd_tvm.model import CausalLM
from tvm.script import tirx as T  # noqa: N812
from tvm_ffi import core

SIDE = 4


@T.inline
def twice(buffer, place):  # type: ignore[no-untyped-def]
    buffer[place] = buffer[place] + buffer[place]


def with_a_macro() -> Any:
    """Names of the script are looked up in frames of the stack by what such a macro is called from."""

    @T.prim_func(private=True, s_tir=True)
    def doubled(a: T.handle) -> None:
        A = T.match_buffer(a, (SIDE, SIDE), "float32")  # noqa: N806
        for i in range(SIDE):
            for j in T.vectorized(SIDE):
                with T.sblock("double"):
                    x, y = T.axis.remap("SS", [i, j])
                    A[x, y] = T.if_then_else(x < y, A[x, y] * T.float32(-0.0), A[x, y] * T.float32(0.0))
        twice(A, (0, 1))

    return doubled


def in_a_class() -> Any:
    """A function in a class is not parsed alone: a line of source of the class's frame tells."""

    @tvm.script.ir_module
    class Module:
        @T.prim_func(s_tir=True)
        def main(a: T.handle):  # type: ignore[no-untyped-def] # noqa: N805
            A = T.match_buffer(a, (SIDE,), "int32")  # noqa: N806
            A[0] = 1
            A[1] = A[True]

    return Module["main"]


def functions(config: str, target: Any) -> dict[str, Any]:
    parsed = configs.parse(Path(config).read_bytes(), "")
    with target, tvm.transform.PassContext(opt_level=3):
        model = CausalLM(parsed, target)
        mod, _, _ = model.export_tvm(spec=model.specification(), allow_extern=True)
        machine = kernels.machine_of(target)
        mod = attention.replace_kernels(mod, parsed, machine)
        mod = extras.attach(mod, parsed, machine)
    found = {str(name.name_hint): function for name, function in mod.functions.items()}
    return {**found, "a macro": with_a_macro(), "a class": in_a_class()}


def alike(one: Any, other: Any) -> bool:
    """Names of variables count too."""
    if one.script() != other.script():
        return False
    try:
        tvm.ir.assert_structural_equal(one, other, map_free_vars=True)
    except ValueError:
        return False
    return True


def positions(function: Any) -> list[str]:
    """Of all nodes that can be reached, in the order in which they are met."""
    found: list[str] = []
    met, left = {}, [function.body]
    while left:
        node = left.pop()
        if isinstance(node, tvm_ffi.Array):
            left += list(node)
        elif isinstance(node, tvm.ir.Span):
            found.append(str(node))
        elif isinstance(node, core.CObject) and node.__chandle__() not in met:
            met[node.__chandle__()] = node
            info = core._type_cls_to_type_info(type(node))
            while info is not None:
                left += [field.getter(node) for field in info.fields]
                info = info.parent_type_info
    return found


def main() -> None:
    config, target = sys.argv[1], targets.parse(sys.argv[2])
    own = functions(config, target)
    parsing.install()
    ours = functions(config, target)
    assert ours.keys() == own.keys()
    names = [name for name, function in own.items() if isinstance(function, tvm.tirx.PrimFunc)]
    said = {
        "functions": len(names),
        "differ": [name for name in names if not alike(own[name], ours[name])],
        "moved": [name for name in names if positions(own[name]) != positions(ours[name])],
        "without positions": [name for name in names if not positions(own[name])],
        "graphs that differ": [name for name in own if name not in names and str(own[name]) != str(ours[name])],
    }
    print(json.dumps(said))


main()
