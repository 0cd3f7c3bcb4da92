"""The Llama family once more, in numpy float64 and without a cache: what a compiled library must agree with.

Written from the papers and from Hugging Face's description of the models, not from the code under test. A helper of
test_tvm_compile.py; every call works out all positions of a sequence from the first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


class Reference:
    """One model with given weights."""

    def __init__(self, config: dict[str, Any], weights: dict[str, np.ndarray]) -> None:
        self.config = config
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}

    def hidden_states(self, tokens: list[int]) -> np.ndarray:
        """The normalised hidden states after the last layer, positions by width."""
        x = self.weights["model.embed_tokens.weight"][tokens]
        for layer in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{layer}"
            x = x + self._attention(f"{name}.self_attn", self._norm(x, f"{name}.input_layernorm"))
            x = x + self._feed_forward(f"{name}.mlp", self._norm(x, f"{name}.post_attention_layernorm"))
        return self._norm(x, "model.norm")

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Logits at every position, positions by vocabulary."""
        head = self.weights.get("lm_head.weight")
        return self.hidden_states(tokens) @ (self.weights["model.embed_tokens.weight"] if head is None else head).T

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        scale = np.sqrt((x**2).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x / scale * self.weights[f"{name}.weight"]

    def _product(self, x: np.ndarray, name: str) -> np.ndarray:
        bias = self.weights.get(f"{name}.bias")
        return x @ self.weights[f"{name}.weight"].T + (0 if bias is None else bias)

    def _attention(self, name: str, x: np.ndarray) -> np.ndarray:
        config, length = self.config, len(x)
        heads, groups, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
        fused = "qkv_proj" if f"{name}.qkv_proj.weight" in self.weights else "c_attn"
        qkv = self._product(x, f"{name}.{fused}")
        q, k, v = np.split(qkv, [heads * dim, (heads + groups) * dim], axis=-1)
        q, k, v = (part.reshape(length, -1, dim) for part in (q, k, v))
        if f"{name}.q_norm.weight" in self.weights:
            q, k = self._norm(q, f"{name}.q_norm"), self._norm(k, f"{name}.k_norm")
        q, k = self._rotate(q), self._rotate(k)
        out = np.empty_like(q)
        for head in range(heads):
            group = head // (heads // groups)
            scores = q[:, head] @ k[:, group].T / math.sqrt(dim)
            scores[np.triu_indices(length, 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, group]
        return self._product(out.reshape(length, -1), f"{name}.o_proj")

    def _feed_forward(self, name: str, x: np.ndarray) -> np.ndarray:
        gate, up = np.split(self._product(x, f"{name}.gate_up_proj"), 2, axis=-1)
        return self._product(gate / (1 + np.exp(-gate)) * up, f"{name}.down_proj")

    def _rotate(self, x: np.ndarray) -> np.ndarray:
        angles = np.outer(np.arange(len(x)), self._frequencies(x.shape[-1]))[:, None, :]
        first, second = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def _frequencies(self, dim: int) -> np.ndarray:
        theta = self.config.get("rope_theta") or self.config.get("position_embedding_base") or 10000
        plain = theta ** (-np.arange(0, dim, 2) / dim)
        scaling = self.config.get("rope_scaling")
        if not scaling:
            return plain
        factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
        original = scaling["original_max_position_embeddings"]
        wavelength = 2 * math.pi / plain
        blend = (original / wavelength - low) / (high - low)
        medium = (1 - blend) * plain / factor + blend * plain
        return np.where(
            wavelength > original / low, plain / factor, np.where(wavelength < original / high, plain, medium)
        )
