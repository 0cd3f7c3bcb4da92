"""Passes that make a module an MLC library: bounds for the memory planner, and `_metadata`.

Not here: the order in which passes run (`pipeline`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import Op

from .model import SUBROUTINE

if TYPE_CHECKING:
    from tvm.relax.frontend.nn import Parameter

    from .config import Config


def attach_bounds(mod: IRModule, config: Config) -> IRModule:
    """Tell the memory planner the largest value of each symbolic dimension.

    Args:
        mod: before memory planning.
        config: for chunk and batch size.

    Returns:
        the module; every Relax function carries the attributes that `StaticPlanBlockMemory` reads.
    """
    bounds = {
        "seq_len": config.prefill_chunk_size,
        "batch_size": config.max_batch_size,
    }
    if config.sliding_window_size > 0:
        bounds["rolling_cache_len"] = config.sliding_window_size
        bounds["kv_seq_len"] = config.sliding_window_size + config.prefill_chunk_size
    elif config.context_window_size > 0:
        bounds["total_seq_len"] = config.context_window_size
    for name, function in mod.functions_items():
        if isinstance(function, relax.Function):
            mod[name] = function.with_attrs(
                {
                    "tir_var_upper_bound": bounds,
                    "tir_non_negative_var": ["vocab_size"],
                    "relax.memory_plan_dynamic_func_output": True,
                }
            )
    return mod


def metadata(config: Config, params: list[tuple[str, Parameter]]) -> dict[str, Any]:
    """What MLC's runtime and weight loader ask a library about, but for memory usage."""
    return {
        "model_type": config.model_type,
        "quantization": config.quantization,
        "context_window_size": config.context_window_size,
        "sliding_window_size": config.sliding_window_size,
        "attention_sink_size": config.attention_sink_size,
        "prefill_chunk_size": config.prefill_chunk_size,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "disaggregation": False,
        "kv_state_kind": "kv_cache",
        "max_batch_size": config.max_batch_size,
        "active_vocab_size": config.active_vocab_size,
        "model_task": "chat",
        "params": [
            {
                "name": name,
                "shape": [n if isinstance(n, int) else n.name for n in param.shape],
                "dtype": str(param.dtype),
                "preprocs": [],
                "pipeline_stages": [0],
            }
            for name, param in params
        ],
        "kv_cache": {
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
        },
    }


def attach_metadata(mod: IRModule, facts: dict[str, Any]) -> IRModule:
    """Add the function `_metadata`, with the memory that each function plans to use.

    Args:
        mod: after memory planning.
        facts: what `metadata` made.

    Returns:
        the module.
    """
    bb = relax.BlockBuilder()
    with bb.function("_metadata", []):
        bb.emit_func_output(tvm.ir.StringImm(json.dumps(facts | {"memory_usage": memory_usage(mod)})))
    mod["_metadata"] = bb.finalize()["_metadata"]
    return mod


def memory_usage(mod: IRModule) -> dict[str, int]:
    """Bytes of temporary storage that each exported function plans; its share of the layers is counted in.

    Sizes that depend on the input count as nothing, as in MLC's own metadata.
    """
    own: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    for name, function in mod.functions_items():
        if isinstance(function, relax.Function):
            own[name.name_hint], calls[name.name_hint] = _planned(function)
    return {
        name: size + sum(own[callee] for callee in calls[name] if callee in own)
        for name, size in own.items()
        if not name.startswith(SUBROUTINE)
    }


def _planned(function: relax.Function) -> tuple[int, set[str]]:
    alloc_tensor, alloc_storage = Op.get("relax.builtin.alloc_tensor"), Op.get("relax.memory.alloc_storage")
    total = 0
    callees: set[str] = set()

    def visit(node: Any) -> None:
        nonlocal total
        if not isinstance(node, relax.Call):
            return
        if isinstance(node.op, tvm.ir.GlobalVar):
            callees.add(node.op.name_hint)
        elif node.op == alloc_tensor:
            total += _bytes(node.args[0].values, node.args[1].value)
        elif node.op == alloc_storage:
            total += _bytes(node.args[0].values, "uint8")

    relax.analysis.post_order_visit(function.body, visit)
    return total, callees


def _bytes(shape: Any, dtype: str) -> int:
    size = (tvm.DataType(dtype).bits + 7) // 8
    for extent in shape:
        if not isinstance(extent, tirx.IntImm):
            return 0
        size *= extent.value
    return size
