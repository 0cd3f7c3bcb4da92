"""Two libraries called with the same: random weights and inputs, what each gives, and what came of the comparison.

Not here: which functions there are (`contract`).
"""

from __future__ import annotations

import json
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = 16
CAPACITY = 256
CACHE = "create_tir_paged_kv_cache"
_NOTHING = {"verdict": "not-compared", "runs": 0, "skipped": 0, "values": 0, "why": "", "largest": 0.0}
SIZES = {"float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2}


class Refused(Exception):  # noqa: N818 - it is an answer, not an error
    """Nothing can be compared; the message says why."""


class Side:
    """One of the two libraries."""

    def __init__(self, path: Path, called: set[str]) -> None:
        import tvm
        from tvm import relax

        module = tvm.runtime.load_module(str(path))
        self.vm = relax.VirtualMachine(module, tvm.cpu())
        self.text: str = module["as_text"]()
        self.metadata: dict[str, Any] = json.loads(self.vm["_metadata"]())
        self.functions = set(re.findall(r"^@([\w.]+):$", self.text, re.MULTILINE))
        self.kernels = {
            name.decode()
            for name in re.findall(rb"\0__tvm_ffi_([A-Za-z]\w*)(?=\0)", path.read_bytes())
            if not name.startswith(b"_")
        }
        self.module = module
        self.cache: Any = None

        def note(_function: Any, name: str, before: bool, *_: Any) -> int:
            if before:
                called.add(str(name))
            return 0

        self.vm.set_instrument(note)

    def kernel(self, name: str) -> Any:
        """A kernel that the library exports by name."""
        return self.module.get_function(name, query_imports=True)


class Comparison:
    """Calls both sides with the same, and keeps what came of it."""

    def __init__(self, question: dict[str, Any]) -> None:
        import numpy as np
        import tvm

        self.np, self.tvm = np, tvm
        self.rng = np.random.default_rng(question.get("seed", 0))
        self.called: set[str] = set()
        self.sides = tuple(self._load(question, name) for name in ("first", "second"))
        self.config: dict[str, Any] = question.get("config") or {}
        self.available: int | None = question.get("memory")
        self.functions: dict[str, dict[str, Any]] = {}
        self.facts = self.sides[0].metadata
        self.needed = 0
        self.weights: list[Any] = []
        self.dtype = ""
        self.width = self.vocab = 0

    def _load(self, question: dict[str, Any], name: str) -> Side:
        try:
            return Side(Path(question[name]), self.called)
        except ImportError:
            raise
        except Exception as error:
            raise Refused(f"the {name} library can't be loaded: {_last_words(error)}") from error

    # --- values -----------------------------------------------------------------------------------------------------

    def tensor(self, values: Any) -> Any:
        """An array of numpy on the device."""
        make = getattr(self.tvm.runtime, "tensor", None) or self.tvm.nd.array
        return make(self.np.ascontiguousarray(values))

    def shape(self, *extents: int) -> Any:
        """A shape as the virtual machine takes it."""
        return self.tvm.runtime.ShapeTuple([int(extent) for extent in extents])

    def integers(self, *values: int) -> Any:
        """A row of 32-bit integers."""
        return self.tensor(self.np.array(values, "int32"))

    def builtin(self, name: str) -> Any:
        """A function of the virtual machine's own."""
        return self.tvm.get_global_func(f"vm.builtin.{name}")

    def vocabulary(self) -> int:
        """The size of the vocabulary, which a library takes from its weights."""
        inner = self.config.get("model_config") or {}
        given = self.config.get("vocab_size") or inner.get("vocab_size") or self.facts.get("active_vocab_size")
        return int(given or 512)

    def make_weights(self) -> None:
        """Random weights of the shapes that the metadata names, the same for both."""
        vocab = self.vocabulary()
        plan = []
        for param in self.facts["params"]:
            shape = [vocab if extent == "vocab_size" else extent for extent in param["shape"]]
            if not all(isinstance(extent, int) and extent > 0 for extent in shape) or param["dtype"] not in SIZES:
                raise Refused(f"its weight {param['name']} is of {param['dtype']}{shape}, which is not made here")
            plan.append((param["name"], shape, param["dtype"]))
        self.needed = self._need(plan)
        if self.available is not None and self.needed > self.available:
            raise Refused(
                f"running both takes some {self.needed / 2**20:,.0f} MiB of memory for weights, caches and "
                f"temporaries, and {self.available / 2**20:,.0f} MiB are free"
            )
        self.weights = [self.tensor(self._values(*each)) for each in plan]

    def _need(self, plan: list[tuple[str, list[int], str]]) -> int:
        sizes = [int(self.np.prod(shape, dtype="int64")) * SIZES[dtype] for _, shape, dtype in plan]
        made = 3 * max(sizes, default=0)  # what is drawn, scaled and converted
        kept = self.facts.get("kv_cache") or {}
        heads = kept.get("num_key_value_heads", 0) * kept.get("head_dim", 0) * kept.get("num_hidden_layers", 0)
        cache = 2 * 2 * 4 * heads * (CAPACITY + self.facts.get("prefill_chunk_size", 0))
        work = sum(max(side.metadata["memory_usage"].values(), default=0) for side in self.sides)
        return sum(sizes) + made + cache + 2 * work + (256 << 20)

    def _values(self, name: str, shape: list[int], dtype: str) -> Any:
        np = self.np
        if dtype.startswith(("uint", "int")):
            bounds = np.iinfo(dtype)
            return self.rng.integers(bounds.min, bounds.max, shape, dtype=dtype, endpoint=True)
        values = self.rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1 or "norm" in name:
            values = values / 10 + ("norm" in name)
        elif name.endswith("scale"):
            values = np.abs(values) / 50
        else:
            values *= shape[-1] ** -0.5
        if dtype == "bfloat16":
            raise Refused(f"its weight {name} is of bfloat16, which numpy has not")
        return values.astype(dtype)

    # --- calls ------------------------------------------------------------------------------------------------------

    def both(self, name: str, call: Callable[[Side], list[Any]]) -> list[Any] | None:
        """Call both sides, compare what they give, and return the first one's, as arrays."""
        sys.stderr.write(f"mlc-jitd compare: {name}\n")
        sys.stderr.flush()
        given: list[Any] = []
        for side in self.sides:
            try:
                given.append([value.numpy() for value in call(side)])
            except Exception as error:  # noqa: BLE001 - whatever a library raises is a result
                given.append(_last_words(error))
        first, second = given
        if isinstance(first, str) and isinstance(second, str):
            self.skip(name, f"neither can be called like this: {first}")
        elif isinstance(first, str) or isinstance(second, str):
            which = "first" if isinstance(first, str) else "second"
            self._record(name, "different", why=f"only the {which} fails: {first if which == 'first' else second}")
        else:
            self._compare(name, first, second)
        return None if isinstance(first, str) else first

    def skip(self, name: str, why: str) -> None:
        """Note that a function was not compared, unless it was in another run."""
        found = self.functions.setdefault(name, dict(_NOTHING))
        found["skipped"] += 1
        found["why"] = found["why"] or why

    def _compare(self, name: str, first: list[Any], second: list[Any]) -> None:
        values, largest, why = 0, 0.0, ""
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            values += one.size
            if (one.shape, one.dtype) != (other.shape, other.dtype):
                why = f"output {number} is {one.dtype}{list(one.shape)} and {other.dtype}{list(other.shape)}"
            elif one.tobytes() != other.tobytes():
                apart = self.np.abs(one.astype("float64") - other.astype("float64"))
                count = int((apart != 0).sum())
                largest = max(largest, float(self.np.nan_to_num(apart, nan=float("inf")).max()))
                why = f"{count} of {one.size} values of output {number} differ, by up to {largest:.3g}"
        self._record(name, "different" if why else "equal", values=values, why=why, largest=largest)

    def _record(self, name: str, verdict: str, *, values: int = 0, why: str = "", largest: float = 0.0) -> None:
        old = self.functions.setdefault(name, dict(_NOTHING))
        if verdict == "different" != old["verdict"]:
            old["verdict"], old["why"] = verdict, why
        elif old["verdict"] == "not-compared":
            old["verdict"] = verdict
        old["runs"] += 1
        old["values"] += values
        old["largest"] = max(old["largest"], min(largest, sys.float_info.max))

    # --- the answer -------------------------------------------------------------------------------------------------

    def answer(self, refused: str) -> dict[str, Any]:
        """What came of it, see the module's docstring."""
        first, second = self.sides
        fields = sorted(set(first.metadata) | set(second.metadata))
        metadata = [name for name in fields if first.metadata.get(name) != second.metadata.get(name)]
        verdicts = [each["verdict"] for each in self.functions.values()]
        equal: bool | None = None
        told = set(metadata) - {"memory_usage"}
        missing = set(first.metadata["memory_usage"]) ^ set(second.metadata["memory_usage"])
        if "different" in verdicts or told or missing:
            equal = False
        elif "equal" in verdicts:
            equal = True
        common = first.kernels & second.kernels
        creation = first.text.partition(f"@{CACHE}:")[2].partition("\n@")[0]
        by_cache = (common & set(re.findall(r"f\[(\w+)\]", creation))) - self.called
        one, other = first.functions | first.kernels, second.functions | second.kernels
        return {
            "equal": equal,
            "refused": refused,
            "functions": self.functions,
            "metadata": metadata,
            "names": {"first": sorted(one - other), "second": sorted(other - one)},
            "kernels": {
                "called": sorted(common & self.called),
                "by_cache": sorted(by_cache),
                "not_called": sorted(common - self.called - by_cache),
            },
            "memory": {"needed": self.needed, "available": self.available},
        }


def _last_words(error: Exception) -> str:
    lines = [line for line in "".join(traceback.format_exception_only(error)).splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(error).__name__
