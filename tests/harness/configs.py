"""Configs of models that real compilers take: small ones, of our own."""

from __future__ import annotations

import os
from typing import Any

import pytest

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "quantization": "q0f32",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "rms_norm_eps": 1e-5,
    "vocab_size": 64,
    "context_window_size": 64,
    "prefill_chunk_size": 32,
    "max_batch_size": 1,
    "model_config": {},
}
"""About the smallest that the embedded toolchain compiles."""

WITH_KERNELS: dict[str, Any] = {
    "model_type": "llama",
    "quantization": "q0f32",
    "model_config": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "rms_norm_eps": 1e-05,
        "vocab_size": 128,
        "context_window_size": 256,
        "prefill_chunk_size": 64,
        "max_batch_size": 2,
    },
}
"""A small one whose kernels mostly stay the same when the context window or the batch is another."""

QUANTIZED: dict[str, Any] = {
    "model_type": "llama",
    "quantization": "q4f32_1",
    "model_config": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "rms_norm_eps": 1e-05,
        "vocab_size": 512,
        "position_embedding_base": 10000.0,
        "context_window_size": 256,
        "prefill_chunk_size": 64,
        "max_batch_size": 2,
    },
    "context_window_size": 256,
    "prefill_chunk_size": 64,
    "tensor_parallel_shards": 1,
}
"""About the smallest that ``mlc_llm`` itself compiles."""

MLC_PYTHON = os.environ.get("MLC_JITD_TEST_PYTHON", "")
MLC_PYTHONPATH = os.environ.get("MLC_JITD_TEST_PYTHONPATH", "")

with_mlc_llm = [
    pytest.mark.mlc_llm,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not MLC_PYTHON, reason="MLC_JITD_TEST_PYTHON names no interpreter that has mlc_llm"),
]
"""Marks of tests with the real ``mlc_llm``."""
