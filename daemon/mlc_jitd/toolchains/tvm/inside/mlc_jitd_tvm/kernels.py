"""The model's own kernels: matrix products, norms, the gated unit, row gathers. What the KV cache needs comes from TVM.

Each kernel is one TIR function whose number of rows is symbolic, written with its loops already arranged for a CPU.
So one kernel serves prefill, decode and every batch function (a library of 30 layers has some ten of these), nothing is
left for a scheduler to unroll, and each takes about 0.1 s to compile. Sums are made in float32 whatever is stored.

Not here: which kernel is called where (`model`), sampling and logit processing (`extras`).
"""

# ruff: noqa: C901, PLR0912, PLR0917 - these are loops and arguments of the compiled program, not of this one

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm.script import tirx as T  # noqa: N812
from tvm.target.codegen import target_has_features
from tvm.tirx import Var

if TYPE_CHECKING:
    from tvm.target import Target
    from tvm.tirx import PrimFunc

OUTPUTS_PER_TASK = 32
"""Output columns that one thread computes at a time: enough to hide the cost of a task, few enough to share out 576."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the kernels need to know of a CPU: float32 lanes of a vector, and vector registers."""

    lanes: int
    registers: int

    def lanes_for(self, extent: int) -> int:
        """The widest vector that divides `extent`, so that no kernel needs a remainder loop."""
        lanes = self.lanes
        while extent % lanes:
            lanes //= 2
        return lanes


def machine_of(target: Target) -> Machine:
    """Read vector width and register count off an llvm target.

    TVM's own `llvm_get_vector_width` answers 512 bits for every x86 processor, so features are asked instead.

    Args:
        target: the CPU to compile for.

    Returns:
        16 lanes and 32 registers with AVX-512, 8 and 16 with AVX, 4 and 32 on 64-bit ARM, else 4 and 16.
    """
    if target_has_features("avx512f", target):
        return Machine(lanes=16, registers=32)
    if target_has_features("avx", target):
        return Machine(lanes=8, registers=16)
    arm = str(target.attrs.get("mtriple", "")).startswith(("aarch64", "arm64"))
    return Machine(lanes=4, registers=32 if arm else 16)


def add_up(buffer: Any, row: Any, lanes: int) -> Any:
    """Add up one vector of a buffer pairwise."""
    parts = [buffer[row, lane] for lane in range(lanes)]
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [parts[i] + parts[i + half] for i in range(half)]
    return parts[0]


def linear(machine: Machine, outputs: int | None, inputs: int, dtype: str, out_dtype: str) -> PrimFunc:
    """`y[m, n] = sum over k of x[m, k] * w[n, k]`, with the number of rows m symbolic.

    Rows are taken four at a time against two or four outputs, each sum in a vector register; leftover rows (and the one
    row of a decode step) one at a time. Past the last output a tile computes the last one again, which writes the same
    value to the same place in the same task.

    Args:
        machine: the CPU's vectors.
        outputs: rows of the weight; None for a vocabulary of any size.
        inputs: columns of the weight.
        dtype: of activations and weight.
        out_dtype: of the result.
    """
    lanes = machine.lanes_for(inputs)
    steps = inputs // lanes
    height = 4
    width = 4 if machine.registers >= 32 else 2  # noqa: PLR2004
    count = Var("vocab_size", "int64") if outputs is None else outputs
    last = count - 1
    tasks = (count + OUTPUTS_PER_TASK - 1) // OUTPUTS_PER_TASK

    @T.prim_func(private=True, s_tir=True)
    def linear(x_handle: T.handle, w_handle: T.handle, y_handle: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = T.int64()
        x = T.match_buffer(x_handle, (rows, inputs), dtype)
        w = T.match_buffer(w_handle, (count, inputs), dtype)
        y = T.match_buffer(y_handle, (rows, count), out_dtype)
        for task in T.parallel(tasks):
            with T.sblock("outputs"):
                T.reads()
                T.writes()
                tile = T.sblock_alloc_buffer((height * width, lanes), "float32", scope="local")
                single = T.sblock_alloc_buffer((width, lanes), "float32", scope="local")
                for m in T.serial(rows // T.int64(height)):
                    for n in T.serial(OUTPUTS_PER_TASK // width):
                        for t in T.unroll(height * width):
                            for v in T.vectorized(lanes):
                                tile[t, v] = T.float32(0)
                        for k in T.serial(steps):
                            for i in T.unroll(height):
                                for j in T.unroll(width):
                                    for v in T.vectorized(lanes):
                                        tile[i * width + j, v] += T.Cast(
                                            "float32", x[m * height + i, k * lanes + v]
                                        ) * T.Cast(
                                            "float32",
                                            w[T.min(task * OUTPUTS_PER_TASK + n * width + j, last), k * lanes + v],
                                        )
                        for i in T.unroll(height):
                            for j in T.unroll(width):
                                y[m * height + i, T.min(task * OUTPUTS_PER_TASK + n * width + j, last)] = T.Cast(
                                    out_dtype, add_up(tile, i * width + j, lanes)
                                )
                for m in T.serial(rows % T.int64(height)):
                    for n in T.serial(OUTPUTS_PER_TASK // width):
                        for j in T.unroll(width):
                            for v in T.vectorized(lanes):
                                single[j, v] = T.float32(0)
                        for k in T.serial(steps):
                            for j in T.unroll(width):
                                for v in T.vectorized(lanes):
                                    single[j, v] += T.Cast(
                                        "float32", x[rows // T.int64(height) * height + m, k * lanes + v]
                                    ) * T.Cast(
                                        "float32",
                                        w[T.min(task * OUTPUTS_PER_TASK + n * width + j, last), k * lanes + v],
                                    )
                        for j in T.unroll(width):
                            y[
                                rows // T.int64(height) * height + m,
                                T.min(task * OUTPUTS_PER_TASK + n * width + j, last),
                            ] = T.Cast(out_dtype, add_up(single, j, lanes))

    return linear


def add_bias(machine: Machine, width: int, dtype: str) -> PrimFunc:
    """`y[m, n] = x[m, n] + b[n]`."""
    lanes = machine.lanes_for(width)

    @T.prim_func(private=True, s_tir=True)
    def add_bias(x_handle: T.handle, b_handle: T.handle, y_handle: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = T.int64()
        x = T.match_buffer(x_handle, (rows, width), dtype)
        b = T.match_buffer(b_handle, (width,), dtype)
        y = T.match_buffer(y_handle, (rows, width), dtype)
        for m in T.parallel(rows):
            with T.sblock("row"):
                T.reads()
                T.writes()
                for k in T.serial(width // lanes):
                    for v in T.vectorized(lanes):
                        y[m, k * lanes + v] = x[m, k * lanes + v] + b[k * lanes + v]

    return add_bias


@T.inline
def _sum_squares(squares: Any, x: Any, m: Any, start: Any, steps: Any, lanes: Any) -> None:
    """The squares of a row's numbers from `start` on, summed lane by lane."""
    for v in T.vectorized(lanes):
        squares[0, v] = T.float32(0)
    for k in T.serial(steps):
        for v in T.vectorized(lanes):
            squares[0, v] += T.Cast("float32", x[m, start + k * lanes + v]) * T.Cast(
                "float32", x[m, start + k * lanes + v]
            )


@T.inline
def _scaled(y: Any, x: Any, scale: Any, w: Any, m: Any, start: Any, steps: Any, lanes: Any, dtype: Any) -> None:
    """A row's numbers from `start` on, times the row's scale and their weights."""
    for k in T.serial(steps):
        for v in T.vectorized(lanes):
            y[m, start + k * lanes + v] = T.Cast(
                dtype, T.Cast("float32", x[m, start + k * lanes + v]) * scale[0] * T.Cast("float32", w[k * lanes + v])
            )


def rms_norm(machine: Machine, width: int, eps: float, dtype: str) -> PrimFunc:
    """`y = x / sqrt(mean(x * x) + eps) * w` for each row."""
    lanes = machine.lanes_for(width)
    steps = width // lanes

    @T.prim_func(private=True, s_tir=True)
    def rms_norm(x_handle: T.handle, w_handle: T.handle, y_handle: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = T.int64()
        x = T.match_buffer(x_handle, (rows, width), dtype)
        w = T.match_buffer(w_handle, (width,), dtype)
        y = T.match_buffer(y_handle, (rows, width), dtype)
        for m in T.parallel(rows):
            with T.sblock("row"):
                T.reads()
                T.writes()
                squares = T.sblock_alloc_buffer((1, lanes), "float32", scope="local")
                scale = T.sblock_alloc_buffer((1,), "float32", scope="local")
                _sum_squares(squares, x, m, 0, steps, lanes)
                scale[0] = T.rsqrt(add_up(squares, 0, lanes) / T.float32(width) + T.float32(eps))
                _scaled(y, x, scale, w, m, 0, steps, lanes, dtype)

    return rms_norm


def add_rms_norm(machine: Machine, width: int, eps: float, dtype: str) -> PrimFunc:
    """`s = x + d` and `y = rms_norm(s)` for each row, in one pass over memory."""
    lanes = machine.lanes_for(width)
    steps = width // lanes

    @T.prim_func(private=True, s_tir=True)
    def add_rms_norm(
        x_handle: T.handle, d_handle: T.handle, w_handle: T.handle, s_handle: T.handle, y_handle: T.handle
    ) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = T.int64()
        x = T.match_buffer(x_handle, (rows, width), dtype)
        d = T.match_buffer(d_handle, (rows, width), dtype)
        w = T.match_buffer(w_handle, (width,), dtype)
        s = T.match_buffer(s_handle, (rows, width), dtype)
        y = T.match_buffer(y_handle, (rows, width), dtype)
        for m in T.parallel(rows):
            with T.sblock("row"):
                T.reads()
                T.writes()
                squares = T.sblock_alloc_buffer((1, lanes), "float32", scope="local")
                scale = T.sblock_alloc_buffer((1,), "float32", scope="local")
                for v in T.vectorized(lanes):
                    squares[0, v] = T.float32(0)
                for k in T.serial(steps):
                    for v in T.vectorized(lanes):
                        s[m, k * lanes + v] = x[m, k * lanes + v] + d[m, k * lanes + v]
                    for v in T.vectorized(lanes):
                        squares[0, v] += T.Cast("float32", s[m, k * lanes + v]) * T.Cast("float32", s[m, k * lanes + v])
                scale[0] = T.rsqrt(add_up(squares, 0, lanes) / T.float32(width) + T.float32(eps))
                _scaled(y, s, scale, w, m, 0, steps, lanes, dtype)

    return add_rms_norm


def head_norm(machine: Machine, heads: tuple[int, int], dim: int, eps: float, dtype: str) -> PrimFunc:
    """RMS norm of each query and key head of a fused qkv row; the value heads are copied (Qwen3).

    Args:
        machine: the CPU's vectors.
        heads: number of query heads, and of key (and of value) heads.
        dim: of one head.
        eps: of the norm.
        dtype: of everything.
    """
    lanes = machine.lanes_for(dim)
    steps = dim // lanes
    queries, keys = heads
    total = queries + 2 * keys

    @T.prim_func(private=True, s_tir=True)
    def head_norm(x_handle: T.handle, q_handle: T.handle, k_handle: T.handle, y_handle: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = T.int64()
        x = T.match_buffer(x_handle, (rows, total * dim), dtype)
        q = T.match_buffer(q_handle, (dim,), dtype)
        k_weight = T.match_buffer(k_handle, (dim,), dtype)
        y = T.match_buffer(y_handle, (rows, total * dim), dtype)
        for m in T.parallel(rows):
            with T.sblock("row"):
                T.reads()
                T.writes()
                squares = T.sblock_alloc_buffer((1, lanes), "float32", scope="local")
                scale = T.sblock_alloc_buffer((1,), "float32", scope="local")
                for h in T.serial(queries + keys):
                    _sum_squares(squares, x, m, h * dim, steps, lanes)
                    scale[0] = T.rsqrt(add_up(squares, 0, lanes) / T.float32(dim) + T.float32(eps))
                    if h < queries:
                        _scaled(y, x, scale, q, m, h * dim, steps, lanes, dtype)
                    else:
                        _scaled(y, x, scale, k_weight, m, h * dim, steps, lanes, dtype)
                for k in T.serial(keys * steps):
                    for v in T.vectorized(lanes):
                        y[m, (queries + keys) * dim + k * lanes + v] = x[m, (queries + keys) * dim + k * lanes + v]

    return head_norm


def silu_mul(machine: Machine, width: int, dtype: str) -> PrimFunc:
    """`y[m, i] = silu(x[m, i]) * x[m, width + i]`: the gate of a fused gate-and-up product."""
    lanes = machine.lanes_for(width)
    block = lanes
    while block < 256 and width % (block * 2) == 0:  # noqa: PLR2004
        block *= 2
    blocks = width // block

    @T.prim_func(private=True, s_tir=True)
    def silu_mul(x_handle: T.handle, y_handle: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = T.int64()
        x = T.match_buffer(x_handle, (rows, 2 * width), dtype)
        y = T.match_buffer(y_handle, (rows, width), dtype)
        for task in T.parallel(rows * blocks):
            with T.sblock("row"):
                T.reads()
                T.writes()
                for k in T.serial(block // lanes):
                    for v in T.vectorized(lanes):
                        y[task // blocks, task % blocks * block + k * lanes + v] = T.Cast(
                            dtype,
                            _silu(x[task // blocks, task % blocks * block + k * lanes + v])
                            * T.Cast("float32", x[task // blocks, width + task % blocks * block + k * lanes + v]),
                        )

    return silu_mul


def _silu(value: Any) -> Any:
    gate = T.Cast("float32", value)
    return gate / (T.float32(1) + T.exp(-gate))


def take_rows(machine: Machine, width: int, dtype: str) -> PrimFunc:
    """`y[m] = table[index[m]]`, from a table of any number of rows."""
    lanes = machine.lanes_for(width)

    @T.prim_func(private=True, s_tir=True)
    def take_rows(table_handle: T.handle, index_handle: T.handle, y_handle: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = T.int64()
        table_rows = T.int64()
        table = T.match_buffer(table_handle, (table_rows, width), dtype)
        index = T.match_buffer(index_handle, (rows,), "int32")
        y = T.match_buffer(y_handle, (rows, width), dtype)
        for m in T.serial(rows):
            with T.sblock("row"):
                T.reads()
                T.writes()
                for k in T.serial(width // lanes):
                    for v in T.vectorized(lanes):
                        y[m, k * lanes + v] = table[index[m], k * lanes + v]

    return take_rows


def last_row(machine: Machine, width: int, dtype: str) -> PrimFunc:
    """`y[0] = x[rows - 1]`."""
    lanes = machine.lanes_for(width)

    @T.prim_func(private=True, s_tir=True)
    def last_row(x_handle: T.handle, y_handle: T.handle) -> None:
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        rows = T.int64()
        x = T.match_buffer(x_handle, (rows, width), dtype)
        y = T.match_buffer(y_handle, (1, width), dtype)
        for k in T.serial(width // lanes):
            with T.sblock("row"):
                T.reads()
                T.writes()
                for v in T.vectorized(lanes):
                    y[0, k * lanes + v] = x[rows - 1, k * lanes + v]

    return last_row
