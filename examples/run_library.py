"""Run a compiled CPU library with random weights: `python run_library.py LIB [--config mlc-chat-config.json]`.

Shows that a library is whole: its metadata is read, weights of the shapes it asks for are made, and a prompt is
embedded, prefilled and continued. The tokens mean nothing, for the weights are random. Needs apache-tvm and numpy.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, Self

import numpy as np

SIZES = {"float32": 4, "float16": 2}
PAGE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--config", type=Path, help="mlc-chat-config.json, for the size of the vocabulary")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    library = Library(arguments.library, arguments.config)
    library.describe()
    library.make_weights(arguments.seed)
    prompt = np.random.default_rng(arguments.seed).integers(0, library.vocab, arguments.prompt_tokens)
    library.generate([int(token) for token in prompt], arguments.new_tokens)


class Library:
    """One loaded library, its weights and its KV cache."""

    def __init__(self, path: Path, config: Path | None) -> None:
        with Step("load", path.name) as step:
            import tvm  # noqa: PLC0415 - its time belongs to this step
            from tvm import relax  # noqa: PLC0415

            self.tvm = tvm
            self.vm = relax.VirtualMachine(tvm.runtime.load_module(str(path.resolve())), tvm.cpu())
            self.metadata: dict[str, Any] = json.loads(self.vm["_metadata"]())
            step.result = f"{path.stat().st_size / 1e6:.1f} MB, {len(self.metadata['memory_usage'])} functions"
        self.vocab = self._vocabulary(config)
        self.weights: list[Any] = []

    def _vocabulary(self, config: Path | None) -> int:
        if config is not None:
            source = json.loads(config.read_text(encoding="utf-8"))
            return int(source.get("vocab_size") or source["model_config"]["vocab_size"])
        fixed = [param["shape"][0] for param in self.metadata["params"] if "embed_tokens" in param["name"]]
        return fixed[0] if isinstance(fixed[0], int) else self.metadata["active_vocab_size"] or 32000

    def describe(self) -> None:
        facts = self.metadata
        cache = facts["kv_cache"]
        print(
            f"         {facts['model_type']} {facts['quantization']}: {cache['num_hidden_layers']} layers, "
            f"{cache['num_attention_heads']} query and {cache['num_key_value_heads']} key heads of "
            f"{cache['head_dim']}, vocabulary {self.vocab}"
        )
        print(
            f"         context {facts['context_window_size']}, prefill chunk {facts['prefill_chunk_size']}, "
            f"batch {facts['max_batch_size']}, temporary memory {max(facts['memory_usage'].values()) / 1e6:.1f} MB"
        )

    def make_weights(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        total = 0
        with Step("weights", f"{len(self.metadata['params'])} random tensors") as step:
            for param in self.metadata["params"]:
                shape = [self.vocab if extent == "vocab_size" else extent for extent in param["shape"]]
                values = rng.standard_normal(shape, dtype=np.float32)
                if "norm" in param["name"]:
                    values = 1 + values / 10
                else:
                    values *= shape[-1] ** -0.5
                self.weights.append(self.tvm.runtime.tensor(values.astype(param["dtype"])))
                total += int(np.prod(shape)) * SIZES[param["dtype"]]
            step.result = f"{total / 1e6:.0f} MB"

    def generate(self, prompt: list[int], count: int) -> None:
        facts, shape = self.metadata, self.tvm.runtime.ShapeTuple
        chunk = facts["prefill_chunk_size"]
        if len(prompt) > chunk:
            raise SystemExit(f"the prompt has {len(prompt)} tokens, the library's prefill chunk {chunk}")
        with Step("cache", f"pages for {len(prompt) + count} tokens"):
            sizes = (1, len(prompt) + count, chunk, PAGE, 0)
            cache = self.vm["create_tir_paged_kv_cache"](*(shape([size]) for size in sizes))
            self._builtin("kv_state_add_sequence")(cache, 0)

        with Step("prefill", f"{len(prompt)} tokens") as step:
            logits = self._forward("prefill", prompt, cache)
            token = int(logits.argmax())
            step.result = f"{len(prompt) / step.so_far:.0f} tokens/s, logits {_summary(logits)}"

        tokens, seconds = [token], []
        for number in range(1, count):
            with Step("decode", f"step {number}, token {token}", quiet=number not in (1, count - 1)) as step:
                logits = self._forward("decode", [token], cache)
                token = int(logits.argmax())
                seconds.append(step.so_far)
                step.result = f"logits {_summary(logits)}"
            tokens.append(token)
        print(f"tokens   {' '.join(map(str, tokens))}")
        if seconds:
            print(f"speed    {1 / float(np.median(seconds)):.0f} tokens/s in the median decode step")

    def _forward(self, function: str, tokens: list[int], cache: Any) -> np.ndarray:
        shape = self.tvm.runtime.ShapeTuple
        embeds = self.vm["embed"](self.tvm.runtime.tensor(np.array(tokens, "int32")), self.weights)
        embeds = self._builtin("reshape")(embeds, shape([1, *embeds.shape]))
        self._builtin("kv_state_begin_forward")(cache, shape([0]), shape([len(tokens)]))
        logits, _ = self.vm[function](embeds, cache, self.weights)
        self._builtin("kv_state_end_forward")(cache)
        values: np.ndarray = logits.numpy().ravel()
        if not np.isfinite(values).all():
            raise SystemExit(f"{function} gave logits that are not finite")
        return values

    def _builtin(self, name: str) -> Any:
        return self.tvm.get_global_func(f"vm.builtin.{name}")


class Step:
    """Prints what is done, and after it the time and the result."""

    def __init__(self, name: str, what: str, *, quiet: bool = False) -> None:
        self.name, self.what, self.quiet = name, what, quiet
        self.result = ""
        self.started = 0.0

    @property
    def so_far(self) -> float:
        return time.perf_counter() - self.started

    def __enter__(self) -> Self:
        self.started = time.perf_counter()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not self.quiet:
            print(f"{self.name:<8} {self.what:<28} {self.so_far * 1e3:8.1f} ms  {self.result}".rstrip(), flush=True)


def _summary(values: np.ndarray) -> str:
    return f"{values.min():.2f} to {values.max():.2f}"


if __name__ == "__main__":
    main()
