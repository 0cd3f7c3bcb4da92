"""Faster kernels for prompts, in place of two that TVM's paged KV cache brings for CPUs: rotary embedding and prefill.

TVM's work on one core with scalar loops, and take power, sine and cosine anew for every head: together they were half
of the time of a prompt of 500 tokens. These share the tokens out among the cores and work in vectors, with the same
arguments and meaning, three times as fast. The cache's other kernels (decode, chunked prefill, tree attention) stay
TVM's.
"""

# ruff: noqa: ARG001, C901, PLR0912, PLR0915, PLR0917 - these are loops and arguments of the compiled program, not of this one

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tvm import tirx
from tvm.relax.frontend.nn.llm.position_embedding import switch_rope_freq_func
from tvm.script import tirx as T  # noqa: N812

from .kernels import add_up
from .stages import note

if TYPE_CHECKING:
    from collections.abc import Callable

    from tvm import IRModule
    from tvm.tirx import PrimFunc

    from .config import Config
    from .kernels import Machine

LOWEST = -5e4
"""Score to start a row's maximum from, as in the cache's other kernels, whose results are merged with this one's."""


def replace_kernels(mod: IRModule, config: Config, machine: Machine) -> IRModule:
    """Put our kernels in the place of TVM's.

    Args:
        mod: the exported model, with the kernels of its KV cache.
        config: for heads, rotary embedding and dtype.
        machine: the CPU's vectors.

    Returns:
        the module. Where this TVM's kernel has another name, or arguments other than those we know, it stays.
    """
    ours = {
        "batch_prefill_ragged_kv": prefill(machine, config),
        "fused_rope": rotate(machine, config),
    }
    names = {name.name_hint: name for name in mod.get_global_vars()}
    for name, new in ours.items():
        old = mod[names[name]] if name in names else None
        if old is None or len(old.params) != len(new.params):
            note(f"TVM's own kernel serves: this TVM has no {name} of {len(new.params)} arguments")
            continue
        mod.update_func(names[name], new.with_attr("global_symbol", old.attrs["global_symbol"]))
    return mod


def _turn(config: Config) -> Callable[[Any, Any, bool], Any]:
    """Cosine or sine of what the rotary embedding turns dimension d of a token at a position by."""
    frequency = switch_rope_freq_func(dict(config.rope_scaling))

    def turn(position: Any, d: Any, cosine: bool) -> Any:
        cos, sin, bound = frequency(position, d, config.head_dim, config.rope_theta, "float32")
        value = cos if cosine else sin
        for name, meaning in bound.items():
            value = tirx.Let(name, meaning, value)
        return value

    return turn


def rotate(machine: Machine, config: Config) -> PrimFunc:
    """Split fused qkv rows, and turn queries and keys by their positions; cosine and sine are taken once per token.

    Args:
        machine: the CPU's vectors.
        config: for heads, base and scaling of the rotary embedding, and dtype.
    """
    queries, keys = config.num_attention_heads, config.num_key_value_heads
    dim, dtype = config.head_dim, config.dtype
    half = dim // 2
    lanes = machine.lanes_for(half)
    steps = half // lanes
    turn = _turn(config)

    @T.prim_func(private=True, s_tir=True)
    def rotate(
        qkv_handle: T.handle,
        position_handle: T.handle,
        q_handle: T.handle,
        k_handle: T.handle,
        v_handle: T.handle,
        apply_rope: T.int64,
    ) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = T.int32()
        position_offset = T.int32()
        qkv = T.match_buffer(qkv_handle, (rows, queries + 2 * keys, dim), dtype)
        q = T.match_buffer(q_handle, (rows, queries, dim), dtype)
        k = T.match_buffer(k_handle, (rows, keys, dim), dtype)
        v = T.match_buffer(v_handle, (rows, keys, dim), dtype)
        position = T.match_buffer(position_handle, (rows,), "int32", elem_offset=position_offset)
        for row in T.parallel(rows):
            with T.sblock("token"):
                T.reads()
                T.writes()
                cos = T.sblock_alloc_buffer((half,), "float32", scope="local")
                sin = T.sblock_alloc_buffer((half,), "float32", scope="local")
                for d in T.serial(half):
                    cos[d] = T.float32(1)
                    sin[d] = T.float32(0)
                if apply_rope > 0:
                    for d in T.serial(half):
                        cos[d] = turn(position[row], d, True)
                        sin[d] = turn(position[row], d, False)
                for h in T.serial(queries):
                    for s in T.serial(steps):
                        for x in T.vectorized(lanes):
                            q[row, h, s * lanes + x] = T.Cast(
                                dtype,
                                T.Cast("float32", qkv[row, h, s * lanes + x]) * cos[s * lanes + x]
                                - T.Cast("float32", qkv[row, h, half + s * lanes + x]) * sin[s * lanes + x],
                            )
                        for x in T.vectorized(lanes):
                            q[row, h, half + s * lanes + x] = T.Cast(
                                dtype,
                                T.Cast("float32", qkv[row, h, half + s * lanes + x]) * cos[s * lanes + x]
                                + T.Cast("float32", qkv[row, h, s * lanes + x]) * sin[s * lanes + x],
                            )
                for h in T.serial(keys):
                    for s in T.serial(steps):
                        for x in T.vectorized(lanes):
                            k[row, h, s * lanes + x] = T.Cast(
                                dtype,
                                T.Cast("float32", qkv[row, queries + h, s * lanes + x]) * cos[s * lanes + x]
                                - T.Cast("float32", qkv[row, queries + h, half + s * lanes + x]) * sin[s * lanes + x],
                            )
                        for x in T.vectorized(lanes):
                            k[row, h, half + s * lanes + x] = T.Cast(
                                dtype,
                                T.Cast("float32", qkv[row, queries + h, half + s * lanes + x]) * cos[s * lanes + x]
                                + T.Cast("float32", qkv[row, queries + h, s * lanes + x]) * sin[s * lanes + x],
                            )
                for h in T.serial(keys):
                    for s in T.serial(2 * steps):
                        for x in T.vectorized(lanes):
                            v[row, h, s * lanes + x] = qkv[row, queries + keys + h, s * lanes + x]

    return rotate


def prefill(machine: Machine, config: Config) -> PrimFunc:
    """Attention of new tokens to new tokens, sequences one after the other.

    The softmax is kept running while keys are read (exponents of base two). A cache with a sliding window keeps keys as
    they are and asks for the rotary embedding here (`rotary_mode` 1); else it is already in q and k.

    Args:
        machine: the CPU's vectors.
        config: for heads, rotary embedding and dtype.
    """
    queries, keys, dim, dtype = config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.dtype
    group = queries // keys
    half = dim // 2
    lanes = machine.lanes_for(dim)
    steps = dim // lanes
    log2e = math.log2(math.e)
    turn = _turn(config)

    @T.prim_func(private=True, s_tir=True)
    def prefill(
        q_handle: T.handle,
        q_indptr_handle: T.handle,
        k_handle: T.handle,
        v_handle: T.handle,
        kv_indptr_handle: T.handle,
        q_position_handle: T.handle,
        k_offset_handle: T.handle,
        out_handle: T.handle,
        lse_handle: T.handle,
        causal: T.int32,
        rotary_mode: T.int32,
        rope_scale: T.float32,
        rope_theta: T.float32,
        sm_scale: T.float32,
    ) -> None:
        T.func_attr({"tirx.is_scheduled": True})
        batch = T.int32()
        q_len = T.int32()
        kv_len = T.int32()
        q_indptr_offset = T.int32()
        kv_indptr_offset = T.int32()
        q_position_offset = T.int32()
        k_offset_offset = T.int32()
        q = T.match_buffer(q_handle, (q_len, queries, dim), dtype)
        q_indptr = T.match_buffer(q_indptr_handle, (batch + 1,), "int32", elem_offset=q_indptr_offset)
        k = T.match_buffer(k_handle, (kv_len, keys, dim), dtype)
        v = T.match_buffer(v_handle, (kv_len, keys, dim), dtype)
        kv_indptr = T.match_buffer(kv_indptr_handle, (batch + 1,), "int32", elem_offset=kv_indptr_offset)
        q_position = T.match_buffer(q_position_handle, (q_len,), "int32", elem_offset=q_position_offset)
        k_offset = T.match_buffer(k_offset_handle, (batch,), "int32", elem_offset=k_offset_offset)
        out = T.match_buffer(out_handle, (q_len, queries, dim), dtype)
        lse = T.match_buffer(lse_handle, (q_len, queries), "float32")
        for b in T.serial(batch):
            for row in T.parallel(q_indptr[b + 1] - q_indptr[b]):
                with T.sblock("query"):
                    T.reads()
                    T.writes()
                    total = T.sblock_alloc_buffer((steps, lanes), "float32", scope="local")
                    query = T.sblock_alloc_buffer((dim,), "float32", scope="local")
                    pair = T.sblock_alloc_buffer((4,), "float32", scope="local")
                    dot = T.sblock_alloc_buffer((1, lanes), "float32", scope="local")
                    score = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    peak = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    shrink = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    weight = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    seen = T.sblock_alloc_buffer((1,), "int32", scope="local")
                    seen[0] = kv_indptr[b + 1] - kv_indptr[b]
                    if causal > 0:
                        seen[0] = seen[0] - (q_indptr[b + 1] - q_indptr[b]) + row + 1
                    for h in T.serial(queries):
                        peak[0] = T.float32(LOWEST)
                        weight[0] = T.float32(1)
                        for s in T.serial(steps):
                            for x in T.vectorized(lanes):
                                total[s, x] = T.float32(0)
                        for d in T.serial(dim):
                            query[d] = T.Cast("float32", q[q_indptr[b] + row, h, d])
                        if rotary_mode == 1:
                            for d in T.serial(half):
                                pair[0] = query[d]
                                pair[1] = query[d + half]
                                pair[2] = turn(q_position[q_indptr[b] + row], d, True)
                                pair[3] = turn(q_position[q_indptr[b] + row], d, False)
                                query[d] = pair[0] * pair[2] - pair[1] * pair[3]
                                query[d + half] = pair[1] * pair[2] + pair[0] * pair[3]
                        for j in T.serial(seen[0]):
                            for x in T.vectorized(lanes):
                                dot[0, x] = T.float32(0)
                            if rotary_mode == 1:
                                for d in T.serial(half):
                                    pair[0] = T.Cast("float32", k[kv_indptr[b] + j, h // group, d])
                                    pair[1] = T.Cast("float32", k[kv_indptr[b] + j, h // group, d + half])
                                    pair[2] = turn(k_offset[b] + j, d, True)
                                    pair[3] = turn(k_offset[b] + j, d, False)
                                    dot[0, 0] += query[d] * (pair[0] * pair[2] - pair[1] * pair[3])
                                    dot[0, 0] += query[d + half] * (pair[1] * pair[2] + pair[0] * pair[3])
                            else:
                                for s in T.serial(steps):
                                    for x in T.vectorized(lanes):
                                        dot[0, x] += query[s * lanes + x] * T.Cast(
                                            "float32", k[kv_indptr[b] + j, h // group, s * lanes + x]
                                        )
                            score[0] = add_up(dot, 0, lanes) * sm_scale * T.float32(log2e)
                            if score[0] > peak[0]:
                                shrink[0] = T.exp2(peak[0] - score[0])
                                peak[0] = score[0]
                                weight[0] *= shrink[0]
                                for s in T.serial(steps):
                                    for x in T.vectorized(lanes):
                                        total[s, x] *= shrink[0]
                            score[0] = T.exp2(score[0] - peak[0])
                            weight[0] += score[0]
                            for s in T.serial(steps):
                                for x in T.vectorized(lanes):
                                    total[s, x] += score[0] * T.Cast(
                                        "float32", v[kv_indptr[b] + j, h // group, s * lanes + x]
                                    )
                        for s in T.serial(steps):
                            for x in T.vectorized(lanes):
                                out[q_indptr[b] + row, h, s * lanes + x] = T.Cast(dtype, total[s, x] / weight[0])
                        lse[q_indptr[b] + row, h] = peak[0] + T.log2(weight[0])

    return prefill
