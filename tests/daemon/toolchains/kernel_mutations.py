"""Changes every field of every node type in the functions of a real model, one at a time, and says which text stays.

    python kernel_mutations.py CONFIG TARGET

A helper of test_kernels.py, which runs it in a process of its own: it writes into nodes that TVM takes for
unchangeable. Prints JSON: for each ``type.field`` whether its changes were seen, ``kept`` being those that were not.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

TOOLCHAINS = Path(__file__).parents[3] / "daemon/mlc_jitd/toolchains"
sys.path[:0] = [str(TOOLCHAINS / "tvm/inside"), str(TOOLCHAINS / "kernels/inside")]
sys.setrecursionlimit(20_000)

import numpy as np
import tvm
import tvm.relax.vm_build
import tvm_ffi
from mlc_jitd_kernels import nodes
from mlc_jitd_tvm import config as configs
from mlc_jitd_tvm import pipeline, targets
from tvm_ffi import core

EACH = 2
"""Nodes changed per type and field."""


class GotThemError(Exception):
    """The host's functions, just before code generation."""


def functions(config: str, target: str) -> list[Any]:
    def take(mod: Any, _target: Any) -> Any:
        if len(mod.functions) > 8:
            raise GotThemError(mod)
        return own(mod, _target)

    build = sys.modules["tvm.tirx.build"]
    own, build.codegen_build = build.codegen_build, take
    try:
        pipeline.compile_model(configs.parse(Path(config).read_bytes(), ""), targets.parse(target))
    except GotThemError as got:
        return list(got.args[0].functions.values())
    raise SystemExit("code generation was never reached")


def fields_of(node: Any) -> list[Any]:
    found, info = [], core._type_cls_to_type_info(type(node))
    while info is not None:
        found += info.fields
        info = info.parent_type_info
    return found


def reachable(root: Any) -> list[Any]:
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if not isinstance(value, core.CObject) or isinstance(value, str) or value.__chandle__() in seen:
            continue
        seen[value.__chandle__()] = value
        if isinstance(value, tvm_ffi.Array):
            waiting += list(value)
        elif isinstance(value, tvm_ffi.Map):
            waiting += [part for pair in value.items() for part in pair]
        else:
            waiting += [field.getter(value) for field in fields_of(value)]
    return [value for value in seen.values() if not isinstance(value, (tvm_ffi.Array, tvm_ffi.Map))]


def others(value: Any, pool: dict[type, list[Any]]) -> list[Any]:
    """Values to put in a value's place."""
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1]
        case float():
            return [math.nextafter(value, math.inf), -value]
        case tvm_ffi.dtype():  # a text too
            return [core.DataType("int16" if str(value) != "int16" else "float32")]
        case str():
            return [value + "x"]
        case tvm_ffi.Array():
            items = list(value)
            if not items:
                return [tvm_ffi.convert([tvm.tirx.const(7, "int64")])]
            return [tvm_ffi.convert(changed) for changed in (items[:-1], items[::-1], items + items[-1:])]
        case tvm_ffi.Map():
            return [tvm_ffi.convert({**dict(value.items()), "mutant": 1})]
        case None:
            return []
    return [other for other in pool[type(value)] if not tvm_ffi.structural_equal(other, value, map_free_vars=True)][:1]


def same(one: Any, other: Any) -> bool:
    return isinstance(one, tvm_ffi.Array) and [*map(repr, one)] == [*map(repr, other)]


def main() -> None:
    writer = nodes.Writer()
    tried: dict[str, list[bool]] = defaultdict(list)
    refused: set[str] = set()
    for function in functions(*sys.argv[1:]):
        everything = reachable(function)
        pool: dict[type, list[Any]] = defaultdict(list)
        for node in everything:
            pool[type(node)].append(node)
        text = writer.text(function).digest
        for node in everything:
            key = core._type_cls_to_type_info(type(node)).type_key
            for field in fields_of(node):
                name = f"{key}.{field.name}"
                if len(tried[name]) >= EACH:
                    continue
                value = field.getter(node)
                for other in others(value, pool):
                    if same(value, other):
                        continue
                    try:
                        field.setter(node, other)
                    except (TypeError, ValueError, AttributeError, RuntimeError):
                        refused.add(name)
                        continue
                    try:
                        changed = writer.text(function).digest != text
                    except nodes.UnknownNodeError:
                        changed = True  # seen all the same: it gets no key
                    finally:
                        field.setter(node, value)
                    tried[name].append(changed)
        assert writer.text(function).digest == text, "a change was not undone"
    constant = function.with_attr("constant", tvm.runtime.tensor(np.arange(64, dtype="float32")))
    changed = np.arange(64, dtype="float32")
    changed[63] = np.nextafter(changed[63], 0, dtype="float32")
    other = function.with_attr("constant", tvm.runtime.tensor(changed))
    tried["a constant's bytes"].append(writer.text(constant).digest != writer.text(other).digest)
    tried["a constant's dtype"].append(
        writer.text(constant).digest
        != writer.text(function.with_attr("constant", tvm.runtime.tensor(np.arange(64, dtype="int32")))).digest
    )
    print(
        json.dumps(
            {
                "seen": sorted(name for name, found in tried.items() if found and all(found)),
                "kept": sorted(name for name, found in tried.items() if not all(found)),
                "refused": sorted(refused - {name for name, found in tried.items() if found}),
                "changes": sum(map(len, tried.values())),
            }
        )
    )


if __name__ == "__main__":
    main()
