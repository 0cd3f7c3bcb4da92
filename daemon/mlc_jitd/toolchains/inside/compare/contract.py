"""The functions and kernels of MLC's libraries, called in the orders in which a server calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sides import CACHE, CAPACITY, PAGE, Comparison, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from sides import Side

TOKENS = 33  # more than two pages, and no multiple of anything
ROWS = 5
BATCH = 3
FORWARD = ("prefill", "decode", "batch_prefill", "batch_decode", "batch_verify")
HIDDEN = "_to_last_hidden_states"


class Contract(Comparison):
    """Everything that can be called with no more knowledge than the metadata and the contract of MLC's libraries."""

    def run(self) -> None:
        """Call everything that the contract of MLC's libraries lets one call."""
        shards = [
            name for name in ("tensor_parallel_shards", "pipeline_parallel_stages") if self.facts.get(name, 1) > 1
        ]
        if shards:
            raise Refused(f"its {shards[0]} is {self.facts[shards[0]]}: it runs on several devices only")
        self.make_weights()
        embedded = self.embed(TOKENS)
        if embedded is not None:
            self.width, self.dtype = embedded.shape[-1], str(embedded.dtype)
            self.states()
            self.helpers()
        self.kernels()
        expected = set(self.facts["memory_usage"]) | set(self.sides[1].metadata["memory_usage"])
        for name in sorted((expected & self.sides[0].functions & self.sides[1].functions) - set(self.functions)):
            self.skip(name, "its arguments are not part of the contract that is known here")

    def tokens(self, count: int) -> Any:
        """Random tokens."""
        return self.tensor(self.rng.integers(0, self.vocabulary(), count).astype("int32"))

    def embed(self, count: int) -> Any:
        """The embeddings of random tokens, tokens by width."""
        tokens = self.tokens(count)
        found = self.both("embed", lambda side: [side.vm["embed"](tokens, self.weights)])
        return None if found is None else found[0]

    def has(self, name: str) -> bool:
        """Whether both have this function."""
        return all(name in side.functions for side in self.sides)

    def states(self) -> None:
        """Every function that reads and writes the KV cache, in the orders in which a server calls them."""
        if self.facts.get("kv_state_kind") != "kv_cache" or not self.has(CACHE):
            for name in (*FORWARD, *(f"{each}{HIDDEN}" for each in FORWARD)):
                if self.has(name):
                    self.skip(name, f"it keeps a state of kind {self.facts.get('kv_state_kind')}, not known here")
            return
        chunk = min(self.facts["prefill_chunk_size"], CAPACITY // 4)
        batch = min(self.facts.get("max_batch_size", 1), BATCH)
        lengths = [min(TOKENS, chunk - batch + 1), *([1] * (batch - 1))] if batch > 1 else [min(TOKENS, chunk)]
        for suffix in ("", HIDDEN):
            for sliding in (False, True):
                self.new_caches(1, chunk, sliding=sliding)
                self.step(f"prefill{suffix}", {0: min(TOKENS, chunk)}, one_row=True)
                self.step(f"prefill{suffix}", {0: min(ROWS, chunk)}, one_row=True)
                self.step(f"decode{suffix}", {0: 1}, one_row=True)
                self.step(f"decode{suffix}", {0: 1}, one_row=True)
                self.contents(min(TOKENS, chunk))
                self.new_caches(batch, chunk, sliding=sliding)
                self.step(f"batch_prefill{suffix}", dict(enumerate(lengths)), positions=not suffix, one_row=True)
                self.step(f"batch_decode{suffix}", dict.fromkeys(range(batch), 1))
                self.step(f"batch_decode{suffix}", dict.fromkeys(range(batch), 1))
                verify = dict(enumerate([2, 3, 1][:batch]))
                self.step(f"batch_verify{suffix}", verify, one_row=True)
                if sliding:
                    continue
                self.step(f"batch_verify{suffix}", verify, one_row=True, tree=True)
                leaves = [min(1, count - 1) for count in verify.values()]
                numbers = self.shape(*range(batch))
                self.sequences("attention_kv_cache_commit_accepted_token_tree_nodes", numbers, self.shape(*leaves))
                self.sequences("kv_state_fork_sequence", 0, batch, -1)
                self.step(f"batch_decode{suffix}", {0: 1, batch: 1} if batch > 1 else {batch: 1})

    def sequences(self, name: str, *arguments: Any) -> None:
        """Do something to the sequences of both caches; the next step shows whether it came to the same."""

        def change(side: Side) -> list[Any]:
            self.builtin(name)(side.cache, *arguments)
            return []

        self.both(f"the KV cache's {name.removeprefix('attention_kv_cache_').removeprefix('kv_state_')}", change)

    def new_caches(self, batch: int, chunk: int, *, sliding: bool) -> None:
        """Empty caches with the sequences begun."""
        sizes = (batch + 1, CAPACITY * batch, chunk, PAGE, int(sliding))

        def make(side: Side) -> list[Any]:
            side.cache = side.vm[CACHE](*(self.shape(size) for size in sizes))
            for number in range(batch):
                self.builtin("kv_state_add_sequence")(side.cache, number)
                if sliding:
                    self.builtin("attention_kv_cache_enable_sliding_window_for_seq")(side.cache, number, TOKENS, 0)
            return []

        self.both(CACHE, make)

    def step(
        self, name: str, lengths: dict[int, int], *, one_row: bool = False, positions: bool = False, tree: bool = False
    ) -> None:
        """One forward step of some sequences.

        Args:
            name: The function.
            lengths: New tokens of each sequence.
            one_row: Its input is one row of all tokens, else a row for each sequence.
            positions: It takes the positions whose logits are wanted.
            tree: The tokens of a sequence are a tree, as speculative decoding verifies.
        """
        if not self.has(name):
            return
        total = sum(lengths.values())
        embeds = self.embed(total)
        if embeds is None:
            return
        shape = (1, total, self.width) if one_row else (total, 1, self.width)
        given = self.tensor(embeds.reshape(shape))
        more = [self.integers(*(self.np.cumsum(list(lengths.values())) - 1))] if positions else []
        parents = [self.shape(*(max(0, place // 2) - (place == 0) for n in lengths.values() for place in range(n)))]

        def call(side: Side) -> list[Any]:
            begin = (self.shape(*lengths), self.shape(*lengths.values()), *(parents if tree else []))
            self.builtin("kv_state_begin_forward")(side.cache, *begin)
            try:
                return [side.vm[name](given, *more, side.cache, self.weights)[0]]
            finally:
                self.builtin("kv_state_end_forward")(side.cache)

        self.both(name, call)

    def contents(self, count: int) -> None:
        """The keys and values that the cache holds of the first sequence."""
        kept = self.facts["kv_cache"]
        shape = (kept["num_hidden_layers"], count, kept["num_key_value_heads"], kept["head_dim"])

        def read(side: Side) -> list[Any]:
            pair = [self.tensor(self.np.zeros(shape, self.dtype)) for _ in range(2)]
            self.builtin("attention_kv_cache_debug_get_kv")(side.cache, 0, 0, count, *pair)
            return pair

        self.both("the KV cache's contents", read)

    def helpers(self) -> None:
        """What turns hidden states into tokens, and moves states about."""
        np, rng = self.np, self.rng
        hidden = self.tensor(rng.standard_normal((ROWS, self.width)).astype(self.dtype))
        if self.has("get_logits"):
            logits = self.both("get_logits", lambda side: [side.vm["get_logits"](hidden, self.weights)])
            self.vocab = logits[0].shape[-1] if logits is not None else 0
        chosen = self.integers(ROWS - 1, 1)
        for name, call in {
            "batch_select_last_hidden_states": lambda side, name: [side.vm[name](hidden, chosen)],
            "alloc_embedding_tensor": lambda side, name: [self.integers(*side.vm[name]().shape)],
        }.items():
            if self.has(name):
                self.both(name, lambda side, name=name, call=call: call(side, name))  # type: ignore[misc]
        for name, (one, other) in {"gather_hidden_states": (ROWS, 2), "scatter_hidden_states": (2, ROWS)}.items():
            if self.has(name):
                source = self.tensor(rng.standard_normal((one, self.width)).astype(self.dtype))
                self._in_place(name, [np.zeros((other, self.width), self.dtype)], source, chosen, last=True)
        if self.has("softmax_with_temperature"):
            heat = np.array([0.5, 0.0, 2.0, 1.0, 0.1][: self.facts.get("max_batch_size", 1)], "float32")
            values = rng.standard_normal((len(heat), 1, self.vocab or self.vocabulary())).astype("float32") * 5
            rows, heat = self.tensor(values), self.tensor(heat)
            name = "softmax_with_temperature"
            self.both(name, lambda side: [side.vm[name](rows, heat)])

    def kernels(self) -> None:
        """The kernels that a server calls by name."""
        np, rng, vocab = self.np, self.rng, self.vocab or self.vocabulary()
        logits = rng.standard_normal((ROWS, vocab)).astype("float32")
        rows, owners = self.integers(0, 2, 4), self.integers(0, 0, 1, 2)
        tokens = self.tensor(rng.choice(vocab, 4, replace=False).astype("int32"))
        bias = self.tensor(rng.standard_normal(4).astype("float32"))
        penalties = self.tensor(np.abs(rng.standard_normal((3, 3))).astype("float32") + 0.1)
        words = rng.integers(-(2**31), 2**31, (ROWS, (vocab + 31) // 32)).astype("int32")
        probs, few = np.abs(logits), np.abs(logits[:2])
        chosen = self.integers(ROWS - 1, 1)
        calls: dict[str, Callable[[str], None]] = {
            "apply_logit_bias_inplace": lambda n: self._in_place(n, [logits], owners, tokens, bias),
            "apply_penalty_inplace": lambda n: self._in_place(
                n, [logits], rows, owners, tokens, self.integers(1, 2, 3, 1), penalties
            ),
            "apply_bitmask_inplace": lambda n: self._in_place(n, [logits], rows, self.tensor(words)),
            "gather_probs": lambda n: self._in_place(n, [np.zeros_like(few)], self.tensor(probs), chosen, last=True),
            "scatter_probs": lambda n: self._in_place(n, [np.zeros_like(probs)], self.tensor(few), chosen, last=True),
        }
        for name, call in calls.items():
            if all(name in side.kernels for side in self.sides):
                call(name)

    def _in_place(self, name: str, target: list[Any], *others: Any, last: bool = False) -> None:
        self.called.add(name)

        def call(side: Side) -> list[Any]:
            changed = self.tensor(target[0].copy())
            function = side.vm[name] if name in side.functions else side.kernel(name)
            function(*((*others, changed) if last else (changed, *others)))
            return [changed]

        self.both(name, call)
