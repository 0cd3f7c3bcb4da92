"""Functions of every MLC library that belong to no layer: softmax, logit processing, helpers of speculative decoding.

Names, arguments and meaning are MLC's; the loops are ours. Not here: what a model computes (`kernels`, `model`), and
sampling on the device, which MLC's CPU libraries don't carry either.
"""

# ruff: noqa: C901, PLR0912, PLR0917 - these are loops and arguments of the compiled program, not of this one

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm import relax, tirx
from tvm.relax import BlockBuilder
from tvm.script import tirx as T  # noqa: N812

if TYPE_CHECKING:
    from tvm import IRModule
    from tvm.tirx import PrimFunc

    from .config import Config
    from .kernels import Machine

GREEDY_BELOW = 1e-5
"""A temperature up to this means: all probability on the largest logit (MLC's threshold)."""


def attach(mod: IRModule, config: Config, machine: Machine) -> IRModule:
    """Add all of them to a module.

    Args:
        mod: the exported model.
        config: of the model, for dtype, sizes and the active vocabulary.
        machine: the CPU's vectors.

    Returns:
        a new module.
    """
    bb = BlockBuilder(mod)
    _softmax_with_temperature(bb, config, machine)
    _alloc_embedding_tensor(bb, config)
    for name in ("gather_hidden_states", "scatter_hidden_states"):
        _move_hidden_states(bb, name, config.dtype)
    for name, function in (
        ("apply_logit_bias_inplace", logit_bias()),
        ("apply_penalty_inplace", penalty()),
        ("apply_bitmask_inplace", bitmask()),
        ("gather_probs", move_rows("float32", gather=True)),
        ("scatter_probs", move_rows("float32", gather=False)),
    ):
        bb.add_func(function.with_attr("global_symbol", name), name)
    return bb.finalize()


def _softmax_with_temperature(bb: BlockBuilder, config: Config, machine: Machine) -> None:
    batch, vocab = tirx.Var("batch_size", "int64"), tirx.Var("vocab_size", "int64")
    logits = relax.Var("logits", relax.TensorType([batch, 1, vocab], "float32"))
    temperature = relax.Var("temperature", relax.TensorType([batch], "float32"))
    kernel = bb.add_func(softmax(machine, config.active_vocab_size), "softmax")
    with bb.function("softmax_with_temperature", [logits, temperature]):
        with bb.dataflow():
            result = bb.emit_output(relax.call_tir(kernel, [logits, temperature], out_ty=logits.ty))
        bb.emit_func_output(result)


def _alloc_embedding_tensor(bb: BlockBuilder, config: Config) -> None:
    with bb.function("alloc_embedding_tensor", []):
        shape = relax.ShapeExpr([config.prefill_chunk_size, config.hidden_size])
        tensor = relax.op.builtin.alloc_tensor(shape, config.dtype, runtime_device_index=0)
        bb.emit_func_output(bb.emit(tensor))


def _move_hidden_states(bb: BlockBuilder, name: str, dtype: str) -> None:
    """A Relax function around a row gather or scatter: the last argument is written, and returned."""
    gather = name.startswith("gather")
    few, many, width = (tirx.Var(x, "int64") for x in ("batch_size", "m", "n"))
    src = relax.Var("src", relax.TensorType([many if gather else few, width], dtype))
    indices = relax.Var("indices", relax.TensorType([few], "int32"))
    dst = relax.Var("dst", relax.TensorType([few if gather else many, width], dtype))
    kernel = bb.add_func(move_rows(dtype, gather=gather), f"_{name}")
    with bb.function(name, [src, indices, dst]):
        with bb.dataflow():
            result = bb.emit_output(relax.op.call_tir_inplace(kernel, [src, indices, dst], 2, dst.ty))
        bb.emit_func_output(result)


def softmax(machine: Machine, active: int | None) -> PrimFunc:
    """`softmax(logits / temperature)` of each row; a temperature of zero shares the probability among the largest.

    Args:
        machine: the CPU's vectors.
        active: tokens that exist; those after them (padding of the vocabulary) get probability zero. None: all exist.
    """
    lanes = machine.lanes

    @T.prim_func(private=True, s_tir=True)
    def softmax(x_handle: T.handle, t_handle: T.handle, y_handle: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch = T.int64()
        vocab = T.int64()
        x = T.match_buffer(x_handle, (batch, 1, vocab), "float32")
        t = T.match_buffer(t_handle, (batch,), "float32")
        y = T.match_buffer(y_handle, (batch, 1, vocab), "float32")
        for m in T.parallel(batch):
            with T.sblock("row"):
                T.reads()
                T.writes()
                used = T.sblock_alloc_buffer((1,), "int64", scope="local")
                scale = T.sblock_alloc_buffer((1,), "float32", scope="local")
                peak = T.sblock_alloc_buffer((lanes,), "float32", scope="local")
                total = T.sblock_alloc_buffer((lanes,), "float32", scope="local")
                used[0] = _used(vocab, active)
                scale[0] = T.if_then_else(t[m] > T.float32(GREEDY_BELOW), T.float32(1) / t[m], T.float32(1))
                for v in T.vectorized(lanes):
                    peak[v] = T.min_value("float32")
                    total[v] = T.float32(0)
                for k in T.serial(used[0] // lanes):
                    for v in T.vectorized(lanes):
                        peak[v] = T.max(peak[v], x[m, 0, k * lanes + v])
                for k in T.serial(used[0] % lanes):
                    peak[0] = T.max(peak[0], x[m, 0, used[0] // lanes * lanes + k])
                for v in T.serial(lanes - 1):
                    peak[0] = T.max(peak[0], peak[v + 1])
                if t[m] > T.float32(GREEDY_BELOW):
                    for k in T.serial(used[0] // lanes):
                        for v in T.vectorized(lanes):
                            y[m, 0, k * lanes + v] = T.exp((x[m, 0, k * lanes + v] - peak[0]) * scale[0])
                        for v in T.vectorized(lanes):
                            total[v] += y[m, 0, k * lanes + v]
                    for k in T.serial(used[0] % lanes):
                        y[m, 0, used[0] // lanes * lanes + k] = T.exp(
                            (x[m, 0, used[0] // lanes * lanes + k] - peak[0]) * scale[0]
                        )
                        total[0] += y[m, 0, used[0] // lanes * lanes + k]
                else:
                    for k in T.serial(used[0]):
                        y[m, 0, k] = T.Cast("float32", x[m, 0, k] == peak[0])
                        total[0] += y[m, 0, k]
                for v in T.serial(lanes - 1):
                    total[0] += total[v + 1]
                for k in T.serial(used[0]):
                    y[m, 0, k] = y[m, 0, k] / total[0]
                for k in T.serial(vocab - used[0]):
                    y[m, 0, used[0] + k] = T.float32(0)

    return softmax


def _used(vocab: Any, active: int | None) -> Any:
    return vocab if active is None else tirx.min(vocab, tirx.const(active, "int64"))


def logit_bias() -> PrimFunc:
    """Add a bias to single logits: token i belongs to row `pos2seq_id[i]`."""

    @T.prim_func(private=True, s_tir=True)
    def apply_logit_bias(
        logits_handle: T.handle, row_handle: T.handle, token_handle: T.handle, bias_handle: T.handle
    ) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch_size = T.int32()
        vocab_size = T.int32()
        num_token = T.int32()
        logits = T.match_buffer(logits_handle, (batch_size, vocab_size), "float32")
        pos2seq_id = T.match_buffer(row_handle, (num_token,), "int32")
        token_ids = T.match_buffer(token_handle, (num_token,), "int32")
        bias = T.match_buffer(bias_handle, (num_token,), "float32")
        for i in T.serial(num_token):
            with T.sblock("row"):
                T.reads()
                T.writes()
                logits[pos2seq_id[i], token_ids[i]] += bias[i]

    return apply_logit_bias


def penalty() -> PrimFunc:
    """Presence, frequency and repetition penalty (the three columns of `penalties`) of tokens that were seen."""

    @T.prim_func(private=True, s_tir=True)
    def apply_penalty(
        logits_handle: T.handle,
        seq_handle: T.handle,
        row_handle: T.handle,
        token_handle: T.handle,
        count_handle: T.handle,
        penalty_handle: T.handle,
    ) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch_size = T.int32()
        vocab_size = T.int32()
        num_token = T.int32()
        num_seq = T.int32()
        logits = T.match_buffer(logits_handle, (batch_size, vocab_size), "float32")
        seq_ids = T.match_buffer(seq_handle, (num_seq,), "int32")
        pos2seq_id = T.match_buffer(row_handle, (num_token,), "int32")
        token_ids = T.match_buffer(token_handle, (num_token,), "int32")
        token_cnt = T.match_buffer(count_handle, (num_token,), "int32")
        penalties = T.match_buffer(penalty_handle, (num_seq, 3), "float32")
        for i in T.serial(num_token):
            with T.sblock("row"):
                T.reads()
                T.writes()
                logits[seq_ids[pos2seq_id[i]], token_ids[i]] -= (
                    penalties[pos2seq_id[i], 0] + T.Cast("float32", token_cnt[i]) * penalties[pos2seq_id[i], 1]
                )
                if logits[seq_ids[pos2seq_id[i]], token_ids[i]] < T.float32(0):
                    logits[seq_ids[pos2seq_id[i]], token_ids[i]] *= penalties[pos2seq_id[i], 2]
                else:
                    logits[seq_ids[pos2seq_id[i]], token_ids[i]] /= penalties[pos2seq_id[i], 2]

    return apply_penalty


def bitmask() -> PrimFunc:
    """Forbid tokens: a zero bit (token v is bit v % 32 of word v // 32) sets the logit to the lowest float."""

    @T.prim_func(private=True, s_tir=True)
    def apply_bitmask(logits_handle: T.handle, seq_handle: T.handle, mask_handle: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch_size = T.int32()
        vocab_size = T.int32()
        num_seq = T.int32()
        logits = T.match_buffer(logits_handle, (batch_size, vocab_size), "float32")
        seq_ids = T.match_buffer(seq_handle, (num_seq,), "int32")
        mask = T.match_buffer(mask_handle, (batch_size, (vocab_size + 31) // 32), "int32")
        for i in T.parallel(num_seq):
            with T.sblock("row"):
                T.reads()
                T.writes()
                for v in T.serial(vocab_size):
                    if (mask[seq_ids[i], v // 32] >> (v % 32)) & 1 == 0:
                        logits[seq_ids[i], v] = T.min_value("float32")

    return apply_bitmask


def move_rows(dtype: str, *, gather: bool) -> PrimFunc:
    """`dst[i] = src[indices[i]]` (gather) or `dst[indices[i]] = src[i]` (scatter), row by row, in place."""

    @T.prim_func(private=True, s_tir=True)
    def gather_rows(src_handle: T.handle, index_handle: T.handle, dst_handle: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch_size = T.int32()
        m = T.int32()
        n = T.int32()
        src = T.match_buffer(src_handle, (m, n), dtype)
        indices = T.match_buffer(index_handle, (batch_size,), "int32")
        dst = T.match_buffer(dst_handle, (batch_size, n), dtype)
        for b in T.serial(batch_size):
            with T.sblock("row"):
                T.reads()
                T.writes()
                for j in T.serial(n):
                    dst[b, j] = src[indices[b], j]

    @T.prim_func(private=True, s_tir=True)
    def scatter_rows(src_handle: T.handle, index_handle: T.handle, dst_handle: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        batch_size = T.int32()
        m = T.int32()
        n = T.int32()
        src = T.match_buffer(src_handle, (batch_size, n), dtype)
        indices = T.match_buffer(index_handle, (batch_size,), "int32")
        dst = T.match_buffer(dst_handle, (m, n), dtype)
        for b in T.serial(batch_size):
            with T.sblock("row"):
                T.reads()
                T.writes()
                for j in T.serial(n):
                    dst[indices[b], j] = src[b, j]

    return gather_rows if gather else scatter_rows
