"""The Llama family as TVM nn modules, and the functions that an MLC library exports.

Parameters are named, shaped and ordered as MLC's weight converter writes them. Between layers everything is a matrix of
tokens by features, whatever the exported function's own shape: so all layers together are one Relax function, compiled
once and called by prefill, decode and every batch function.

Not here: how a kernel is called (`calls`) and computes (`kernels`), what is no part of the model (`extras`).
"""

# ruff: noqa: SLF001 - nn tensors give their Relax expression as `_expr` and in no other way

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm import relax, tirx
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import Tensor, op
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache, RopeMode, TIRPagedKVCache

from .calls import Kernels

if TYPE_CHECKING:
    from tvm.target import Target

    from .config import Config

SUBROUTINE = "decoder"
"""Name of the Relax function that holds all layers."""


class Linear(nn.Module):
    """A weight of outputs by inputs, with or without bias."""

    def __init__(self, run: Kernels, inputs: int, outputs: int | str, *, bias: bool = False) -> None:
        self.run = run
        self.weight = nn.Parameter((outputs, inputs))
        self.bias = nn.Parameter((outputs,)) if bias else None

    def forward(self, x: Tensor, out_dtype: str = "") -> Tensor:
        """Apply it to the rows of `x`."""
        y = self.run.linear(x, self.weight, out_dtype)
        return y if self.bias is None else self.run.add_bias(y, self.bias)


class Norm(nn.Module):
    """The weight of an RMS norm."""

    def __init__(self, width: int) -> None:
        self.weight = nn.Parameter((width,))


class Embedding(nn.Module):
    """The table of token embeddings."""

    def __init__(self, vocab: int | str, width: int) -> None:
        self.weight = nn.Parameter((vocab, width))


class Attention(nn.Module):
    """Grouped-query attention over the paged KV cache, which applies the rotary embedding itself."""

    def __init__(self, config: Config, run: Kernels) -> None:
        self.run = run
        self.config = config
        query = config.num_attention_heads * config.head_dim
        key = config.num_key_value_heads * config.head_dim
        qkv = Linear(run, config.hidden_size, query + 2 * key, bias=config.qkv_bias)
        setattr(self, config.family.qkv_name, qkv)
        self.o_proj = Linear(run, query, config.hidden_size, bias=config.output_bias)
        if config.head_norm:
            self.q_norm = Norm(config.head_dim)
            self.k_norm = Norm(config.head_dim)

    def forward(self, x: Tensor, cache: PagedKVCache, layer: int) -> Tensor:
        """Attend from each row of `x`."""
        config = self.config
        heads, dim = config.num_attention_heads, config.head_dim
        tokens = x.shape[0]
        qkv = getattr(self, config.family.qkv_name)(x)
        if config.head_norm:
            qkv = self.run.head_norm(qkv, self.q_norm.weight, self.k_norm.weight, config)
        qkv = op.reshape(qkv, (1, tokens, heads + 2 * config.num_key_value_heads, dim))
        out = cache.attention_with_fused_qkv(layer, qkv, heads, sm_scale=dim**-0.5)
        return self.o_proj(op.reshape(out, (tokens, heads * dim)))


class FeedForward(nn.Module):
    """The gated unit: gate and up in one product, then down."""

    def __init__(self, config: Config, run: Kernels) -> None:
        self.run = run
        self.gate_up_proj = Linear(run, config.hidden_size, 2 * config.intermediate_size)
        self.down_proj = Linear(run, config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to the rows of `x`."""
        return self.down_proj(self.run.silu_mul(self.gate_up_proj(x)))


class Layer(nn.Module):
    """One decoder layer's modules. `Decoder` runs them: each addition is fused with the norm that follows it."""

    def __init__(self, config: Config, run: Kernels) -> None:
        self.self_attn = Attention(config, run)
        self.mlp = FeedForward(config, run)
        self.input_layernorm = Norm(config.hidden_size)
        self.post_attention_layernorm = Norm(config.hidden_size)


class Decoder(nn.Module):
    """Embeddings, all layers, and the last norm."""

    def __init__(self, config: Config, run: Kernels) -> None:
        self.run = run
        self.eps = config.rms_norm_eps
        vocab = "vocab_size" if config.family.symbolic_vocab else config.vocab_size
        self.embed_tokens = Embedding(vocab, config.hidden_size)
        self.layers = nn.ModuleList([Layer(config, run) for _ in range(config.num_hidden_layers)])
        self.norm = Norm(config.hidden_size)

    def forward(self, x: Tensor, cache: PagedKVCache) -> Tensor:
        """Run all layers.

        Args:
            x: embeddings, tokens by hidden size.
            cache: the paged KV cache, in a forward step that the caller began.

        Returns:
            the normalised hidden states, of the same shape.
        """
        norms = [layer.input_layernorm for layer in self.layers] + [self.norm]
        normed = self.run.rms_norm(x, norms[0].weight, self.eps)
        for index, layer in enumerate(self.layers):
            out = layer.self_attn(normed, cache, index)
            x, normed = self.run.add_rms_norm(x, out, layer.post_attention_layernorm.weight, self.eps)
            out = layer.mlp(normed)
            x, normed = self.run.add_rms_norm(x, out, norms[index + 1].weight, self.eps)
        return normed


class Subroutine:
    """The decoder as Relax functions of their own, called from the exported ones.

    One for each kind of row count (a decode step's 1, `batch_size`, `seq_len`), so that the memory planner bounds each
    by what it can really be. TVM's own `SubroutineMixin` can't take packed weights: it passes dataflow variables on.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._made: dict[str, relax.GlobalVar] = {}

    def __call__(self, x: Tensor, cache: PagedKVCache) -> Tensor:
        """Emit a call, and on the first of its kind the function."""
        bb = relax.BlockBuilder.current()
        weights = [bb.lookup_binding(param._expr) for param in self._decoder.parameters()]
        packed = weights[0].tuple_value
        rows = x.shape[0]
        kind = "token" if isinstance(rows, int) else rows.name
        if kind not in self._made:
            self._made[kind] = self._emit(bb, f"{SUBROUTINE}_{kind}", x, packed, [w.index for w in weights])
        return Tensor(_expr=bb.emit(self._made[kind](x._expr, cache._expr, packed)))

    def _emit(
        self, bb: relax.BlockBuilder, name: str, x: Tensor, packed: relax.Var, places: list[int]
    ) -> relax.GlobalVar:
        params = list(self._decoder.parameters())
        outside = [param._expr for param in params]
        hidden = relax.Var("hidden_states", x._expr.ty)
        cache = relax.Var("paged_kv_cache", relax.AnyType())
        weights = relax.Var("packed_params", packed.ty)
        # The attribute keeps the builder from taking two that differ in a dimension's name alone for one.
        with bb.function(name, [hidden, cache, weights], attrs={"rows": name}, private=True):
            with bb.dataflow():
                for param, place in zip(params, places, strict=True):
                    param._expr = bb.emit(relax.TupleGetItem(weights, place))
                out = self._decoder(Tensor(_expr=hidden), PagedKVCache(_expr=cache, _name="paged_kv_cache"))
                result = bb.emit_output(out._expr)
            gvar = bb.emit_func_output(result)
        for param, expr in zip(params, outside, strict=True):
            param._expr = expr
        # Its symbolic dimensions are still the caller's own variables.
        bb.update_func(gvar, relax.utils.copy_with_new_vars(bb.get()[gvar]))
        return gvar


class CausalLM(nn.Module):
    """The whole model; each public method is a function of the library."""

    def __init__(self, config: Config, target: Target) -> None:
        run = Kernels(target, config.dtype)
        self.run = run
        self.config = config
        self.target = target
        self.model = Decoder(config, run)
        self.layers = Subroutine(self.model)
        if not config.tie_word_embeddings:
            vocab = "vocab_size" if config.family.symbolic_vocab else config.vocab_size
            self.lm_head = Linear(run, config.hidden_size, vocab)
        self.to(config.dtype)

    def _hidden(self, embeds: Tensor, cache: PagedKVCache) -> Tensor:
        batch, length, width = embeds.shape
        return self.layers(op.reshape(embeds, (batch * length, width)), cache)

    def _logits(self, hidden: Tensor, batch: Any, length: Any) -> Tensor:
        logits = self.get_logits(hidden)
        return op.reshape(logits, (batch, length, logits.shape[1]))

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids (tokens) -> embeddings (tokens, hidden)."""
        return self.run.take_rows(self.model.embed_tokens.weight, input_ids)

    def get_logits(self, hidden_states: Tensor) -> Tensor:
        """Hidden states (tokens, hidden) -> float32 logits (tokens, vocabulary)."""
        head = self.model.embed_tokens if self.config.tie_word_embeddings else self.lm_head
        return self.run.linear(hidden_states, head.weight, "float32")

    def batch_select_last_hidden_states(self, hidden_states: Tensor, logit_positions: Tensor) -> Tensor:
        """Rows of the hidden states by position."""
        return self.run.take_rows(hidden_states, logit_positions)

    def prefill(self, input_embed: Tensor, paged_kv_cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """One sequence's prompt -> logits of its last token."""
        hidden = self._hidden(input_embed, paged_kv_cache)
        return self._logits(self.run.last_row(hidden), 1, 1), paged_kv_cache

    def decode(self, input_embed: Tensor, paged_kv_cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """One token of one sequence -> its logits."""
        return self._all_logits(input_embed, paged_kv_cache)

    def batch_prefill(
        self, input_embeds: Tensor, logit_positions: Tensor, paged_kv_cache: PagedKVCache
    ) -> tuple[Tensor, PagedKVCache]:
        """Several sequences' prompts, one after the other -> logits at the given positions."""
        hidden = self.run.take_rows(self._hidden(input_embeds, paged_kv_cache), logit_positions)
        return self._logits(hidden, 1, logit_positions.shape[0]), paged_kv_cache

    def batch_decode(self, input_embeds: Tensor, paged_kv_cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """One token of each sequence -> their logits."""
        return self._all_logits(input_embeds, paged_kv_cache)

    def batch_verify(self, input_embeds: Tensor, paged_kv_cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        """Several sequences' tokens -> the logits of all of them."""
        return self._all_logits(input_embeds, paged_kv_cache)

    def _all_logits(self, embeds: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        return self._logits(self._hidden(embeds, cache), *embeds.shape[:2]), cache

    def _hidden_states(self, embeds: Tensor, cache: PagedKVCache) -> tuple[Tensor, PagedKVCache]:
        return op.reshape(self._hidden(embeds, cache), embeds.shape), cache

    def prefill_to_last_hidden_states(
        self, input_embed: Tensor, paged_kv_cache: PagedKVCache
    ) -> tuple[Tensor, PagedKVCache]:
        """As `prefill`, but the hidden states of all tokens."""
        return self._hidden_states(input_embed, paged_kv_cache)

    def decode_to_last_hidden_states(
        self, input_embed: Tensor, paged_kv_cache: PagedKVCache
    ) -> tuple[Tensor, PagedKVCache]:
        """As `decode`, but hidden states."""
        return self._hidden_states(input_embed, paged_kv_cache)

    def batch_prefill_to_last_hidden_states(
        self, input_embeds: Tensor, paged_kv_cache: PagedKVCache
    ) -> tuple[Tensor, PagedKVCache]:
        """As `batch_prefill`, but the hidden states of all tokens."""
        return self._hidden_states(input_embeds, paged_kv_cache)

    def batch_decode_to_last_hidden_states(
        self, input_embeds: Tensor, paged_kv_cache: PagedKVCache
    ) -> tuple[Tensor, PagedKVCache]:
        """As `batch_decode`, but hidden states."""
        return self._hidden_states(input_embeds, paged_kv_cache)

    def batch_verify_to_last_hidden_states(
        self, input_embeds: Tensor, paged_kv_cache: PagedKVCache
    ) -> tuple[Tensor, PagedKVCache]:
        """As `batch_verify`, but hidden states."""
        return self._hidden_states(input_embeds, paged_kv_cache)

    def create_tir_paged_kv_cache(
        self,
        max_batch_size_: tirx.Var,
        max_total_seq_len_: tirx.Var,
        prefill_chunk_size_: tirx.Var,
        page_size_: tirx.Var,
        support_sliding_window_: tirx.Var,
    ) -> PagedKVCache:
        """A paged KV cache for this model, of sizes given at run time. The names with their underscores are MLC's."""
        config = self.config
        return TIRPagedKVCache(
            attn_kind="mha",
            max_batch_size=max_batch_size_,
            max_total_seq_len=max_total_seq_len_,
            prefill_chunk_size=prefill_chunk_size_,
            page_size=page_size_,
            support_sliding_window=support_sliding_window_,
            layer_partition=relax.ShapeExpr([0, config.num_hidden_layers]),
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            qk_head_dim=config.head_dim,
            v_head_dim=config.head_dim,
            mla_original_qk_head_dim=0,
            mla_original_v_head_dim=0,
            rope_mode=RopeMode.NORMAL,
            rope_scale=1,
            rope_theta=config.rope_theta,
            rope_scaling=dict(config.rope_scaling),
            rope_ext_factors=relax.prim_value(0),
            rotary_dim=config.head_dim,
            enable_disaggregation=False,
            dtype=config.dtype,
            target=self.target,
        )

    def specification(self) -> dict[str, Any]:
        """Arguments of each exported function, with MLC's names and shapes."""
        width, dtype = self.config.hidden_size, self.config.dtype
        cache = {"paged_kv_cache": nn.spec.Object(object_type=PagedKVCache)}
        chunk, token = [1, "seq_len", width], [1, 1, width]
        batch = ["batch_size", 1, width]
        positions = {"logit_positions": nn.spec.Tensor(["batch_size"], "int32")}
        rows = {"hidden_states": nn.spec.Tensor(["seq_len", width], dtype)}
        steps = {"prefill": ("input_embed", chunk), "decode": ("input_embed", token)}
        for name, shape in (("batch_prefill", chunk), ("batch_decode", batch), ("batch_verify", chunk)):
            steps[name] = ("input_embeds", shape)
        spec: dict[str, Any] = {
            "embed": {"input_ids": nn.spec.Tensor(["seq_len"], "int32")},
            "get_logits": rows,
            "batch_select_last_hidden_states": rows | positions,
            "create_tir_paged_kv_cache": dict.fromkeys(
                (
                    "max_batch_size_",
                    "max_total_seq_len_",
                    "prefill_chunk_size_",
                    "page_size_",
                    "support_sliding_window_",
                ),
                int,
            ),
        }
        for name, (argument, shape) in steps.items():
            embeds = {argument: nn.spec.Tensor(shape, dtype)}
            spec[name] = embeds | (positions if name == "batch_prefill" else {}) | cache
            spec[f"{name}_to_last_hidden_states"] = embeds | cache
        without_weights = ("batch_select_last_hidden_states", "create_tir_paged_kv_cache")
        for name, arguments in spec.items():
            mode = "none" if name in without_weights else "packed"
            spec[name] = arguments | {"$": {"param_mode": mode, "effect_mode": "none"}}
        return spec
