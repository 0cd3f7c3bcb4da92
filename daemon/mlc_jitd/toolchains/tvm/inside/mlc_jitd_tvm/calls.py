"""Calls of the model's kernels on nn tensors: shapes and dtypes in, one `call_tir` out.

Not here: the loops of a kernel (`kernels`).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from tvm.relax.frontend.nn import Tensor, op

from . import kernels

if TYPE_CHECKING:
    from tvm.target import Target

    from .config import Config


class Kernels:
    """Calls of the model's kernels on nn tensors, each kernel made once per shape."""

    def __init__(self, target: Target, dtype: str) -> None:
        self._machine = kernels.machine_of(target)
        self._dtype = dtype
        self._made = cache(lambda make, *args: make(self._machine, *args))

    def _call(self, make: Any, args: tuple[Any, ...], inputs: list[Tensor], *outputs: tuple[Any, str]) -> Any:
        out = [Tensor.placeholder(list(shape), dtype) for shape, dtype in outputs]
        return op.tensor_ir_op(self._made(make, *args), make.__name__, inputs, out if len(out) > 1 else out[0])

    def linear(self, x: Tensor, weight: Tensor, out_dtype: str = "") -> Tensor:
        """`x` times the transposed weight; the weight's first dimension may be symbolic."""
        outputs, inputs = weight.shape
        width = outputs if isinstance(outputs, int) else None
        out_dtype = out_dtype or self._dtype
        return self._call(
            kernels.linear, (width, inputs, self._dtype, out_dtype), [x, weight], ((x.shape[0], outputs), out_dtype)
        )

    def add_bias(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x` plus one bias for each column."""
        return self._call(kernels.add_bias, (x.shape[1], self._dtype), [x, bias], (x.shape, self._dtype))

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Each row of `x`, normalised."""
        return self._call(kernels.rms_norm, (x.shape[1], eps, self._dtype), [x, weight], (x.shape, self._dtype))

    def add_rms_norm(self, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """`x + delta`, and its rows normalised."""
        out = (x.shape, self._dtype)
        args = (x.shape[1], eps, self._dtype)
        total, normed = self._call(kernels.add_rms_norm, args, [x, delta, weight], out, out)
        return total, normed

    def head_norm(self, qkv: Tensor, q: Tensor, k: Tensor, config: Config) -> Tensor:
        """Query and key heads of fused qkv rows, normalised."""
        heads = (config.num_attention_heads, config.num_key_value_heads)
        args = (heads, config.head_dim, config.rms_norm_eps, self._dtype)
        return self._call(kernels.head_norm, args, [qkv, q, k], (qkv.shape, self._dtype))

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """`silu(left half) * right half` of each row."""
        width = gate_up.shape[1] // 2
        return self._call(kernels.silu_mul, (width, self._dtype), [gate_up], ((gate_up.shape[0], width), self._dtype))

    def take_rows(self, table: Tensor, index: Tensor) -> Tensor:
        """Rows of a table by number."""
        width = table.shape[1]
        return self._call(
            kernels.take_rows, (width, self._dtype), [table, index], ((index.shape[0], width), self._dtype)
        )

    def last_row(self, x: Tensor) -> Tensor:
        """The last row alone, as a matrix."""
        width = x.shape[1]
        return self._call(kernels.last_row, (width, self._dtype), [x], ((1, width), self._dtype))
