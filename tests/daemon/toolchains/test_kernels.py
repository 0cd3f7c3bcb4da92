"""Kernels compiled apart, in parallel, reused: the same library to the last bit, whatever happens on the way.

Real compiles by the embedded toolchain. ``MLC_JITD_TEST_OVERRIDES=50`` tries more overrides.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import psutil
import pytest
from hypothesis import strategies as st

pytest.importorskip("tvm")
np = pytest.importorskip("numpy")
sys.path.insert(0, str(Path(__file__).parent))

import test_tvm_compile as tvm_compile  # noqa: E402
import tvm  # noqa: E402

from mlc_jitd.build import Kind, Limits, StopSignal, WarmCompilers  # noqa: E402
from mlc_jitd.store import KernelStore  # noqa: E402
from mlc_jitd.toolchains import Command, CompileJob, kernels, toolchain  # noqa: E402

if TYPE_CHECKING:
    from mlc_jitd.toolchains.kernels import KernelReport

pytestmark = [
    pytest.mark.tvm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere TVM's own code generation does it"),
]

TARGET, MODELS = tvm_compile.TARGET, tvm_compile.MODELS
CHAIN = toolchain("tvm")
OVERRIDES = int(os.environ.get("MLC_JITD_TEST_OVERRIDES", "3"))


@dataclasses.dataclass(frozen=True)
class Compiled:
    library: Path
    report: KernelReport
    log: str
    stages: list[str]


class Bench:
    """Compiles models in a warm compiler, with their kernels in one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = KernelStore(folder, limit=1 << 30)
        self.number = 0
        self.plain: dict[str, Compiled] = {}

    def fresh(self) -> Path:
        self.number += 1
        folder = self.folder / f"job-{self.number}"
        (folder / "scratch").mkdir(parents=True)
        (folder / "new").mkdir()
        return folder

    def command(self, folder: Path, config: Any, *, apart: bool, overrides: str = "") -> Any:
        path = (("PATH", os.environ["PATH"]),)
        job = CompileJob("tvm", sys.executable, json.dumps(config).encode(), overrides, "O2", TARGET, None, "so", path)
        command = CHAIN.command(job, scratch=folder / "scratch", output=folder / "lib.so", cores=2)
        if apart:
            command = kernels.accelerated(
                command, store=self.store.root, new=folder / "new", identity="a TVM", workers=2
            )
        return job, command

    def compile(
        self, config: Any, *, apart: bool, overrides: str = "", folder: Path | None = None, environ: Any = None
    ) -> Compiled:
        """In a plain subprocess: a warm compiler's job makes way for everybody, this one does not."""
        if not apart and (known := self.plain.get(f"{config}{overrides}")):
            return known
        folder = folder or self.fresh()
        _, command = self.command(folder, config, apart=apart, overrides=overrides)
        env = {**dict(command.env), **(environ or {})}
        done = subprocess.run(command.argv, env=env, cwd=command.cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        made = self.settle(folder, done.stderr)
        if not apart:
            self.plain[f"{config}{overrides}"] = made
        return made

    def compile_warm(self, config: Any, pool: WarmCompilers) -> Compiled:
        folder = self.fresh()
        job, command = self.command(folder, config, apart=True)
        kind = Kind("tvm", "", lambda own: CHAIN.warm(job, folder=own), lambda: True)
        said: list[str] = []
        outcome = pool.run(command, kind, Limits(), log=folder / "log", on_line=said.append, stop=StopSignal())
        assert outcome.succeeded, outcome.log_tail
        return self.settle(folder, "\n".join(said))

    def settle(self, folder: Path, log: str) -> Compiled:
        report = kernels.read_report(folder / "new")
        self.store.take_in(folder / "new", report)
        stages = [found.detail for line in log.splitlines() if (found := kernels.stage(line))]
        return Compiled(folder / "lib.so", report, log, stages)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def clean(bench: Bench) -> Bench:
    """With an empty store."""
    shutil.rmtree(bench.store.root, ignore_errors=True)
    return bench


def loaded(compiled: Compiled, config: Any) -> tvm_compile.Library:
    """A library as test_tvm_compile drives it, with random weights that are always the same."""
    library = tvm_compile.Library.__new__(tvm_compile.Library)
    library.config = config
    library.load(compiled.library)
    return library


def outputs(compiled: Compiled, config: Any) -> dict[str, np.ndarray]:
    """What every exported function computes, kernels of the KV cache included, from the same random inputs."""
    library = loaded(compiled, config)
    rng = np.random.default_rng(3)
    prompt, vocab = tvm_compile.PROMPT, config["model_config"]["vocab_size"]
    tensor, step = tvm_compile.tensor, library.step
    found = {"metadata": np.frombuffer(json.dumps(library.metadata, sort_keys=True).encode(), "uint8")}
    for sliding in (False, True):
        library.cache = library.new_cache(sliding=sliding)
        library.sequences(0, 1)
        tag = f" sliding={sliding}"
        if sliding:
            for number in (0, 1):
                tvm.get_global_func("vm.builtin.attention_kv_cache_enable_sliding_window_for_seq")(
                    library.cache, number, 128, 0
                )
        found["batch_prefill" + tag] = step(
            "batch_prefill", {0: 7, 1: 5}, library.embed(prompt + prompt[:5], 1, 12), tensor(np.array([6, 11], "int32"))
        )
        found["batch_decode" + tag] = step("batch_decode", {0: 1, 1: 1}, library.embed([3, 4], 2, 1))
        found["batch_verify" + tag] = step("batch_verify", {0: 2, 1: 3}, library.embed([5, 6, 7, 8, 9], 1, 5))
        found["decode" + tag] = step("decode", {0: 1}, library.embed([11], 1, 1))
        found["prefill" + tag] = step("prefill", {1: 7}, library.embed(prompt, 1, 7))
    library.cache = library.new_cache()
    for name in tvm_compile.STEPS:
        library.sequences(0)
        tokens = prompt[:1] if "decode" in name else prompt
        hidden = step(f"{name}_to_last_hidden_states", {0: len(tokens)}, library.embed(tokens, 1, len(tokens)))
        found[f"{name}_to_last_hidden_states"] = hidden
    chosen = library.vm["batch_select_last_hidden_states"](tensor(hidden[0]), tensor(np.array([2], "int32")))
    found["batch_select_last_hidden_states"] = chosen.numpy()
    found["get_logits"] = library.vm["get_logits"](chosen, library.weights).numpy()
    logits = rng.standard_normal((3, 1, vocab)).astype("float32")
    found["softmax"] = library.vm["softmax_with_temperature"](
        tensor(logits), tensor(np.array([1, 0.5, 0], "float32"))
    ).numpy()

    def kernel(name: str, *given: np.ndarray) -> None:
        arguments = [tensor(each) for each in given]
        library.vm.module.get_function(name, query_imports=True)(*arguments)
        found[name] = np.concatenate([each.numpy().ravel().view("uint8") for each in arguments])

    flat = rng.standard_normal((3, 70)).astype("float32")
    whole = [np.array(each, "int32") for each in ([0, 0, 2], [5, 6, 69], [0, 2], [0, 0, 1], [1, 2, 3])]
    kernel("apply_logit_bias_inplace", flat, whole[0], whole[1], rng.standard_normal(3).astype("float32"))
    kernel("apply_penalty_inplace", flat, whole[2], whole[3], whole[1], whole[4], rng.random((2, 3)).astype("float32"))
    kernel("apply_bitmask_inplace", flat, whole[2], rng.integers(-99, 99, (3, 3)).astype("int32"))
    many, few = rng.standard_normal((5, 8)).astype("float32"), rng.standard_normal((2, 8)).astype("float32")
    kernel("gather_probs", many, np.array([4, 1], "int32"), few)
    kernel("scatter_probs", few, np.array([4, 1], "int32"), many)
    return found


ARITHMETIC = re.compile(r"\tv?(?:add|sub|mul|div|fm|fnm|sqrt|max|min|cvt|round)[a-z0-9]*[ps][sdh]\b")


def arithmetic(library: Path) -> Counter[str]:
    """How often the library has each floating-point instruction: every function counts, also those nobody can call."""
    if shutil.which("objdump") is None or os.uname().machine != "x86_64":
        pytest.skip("needs objdump, and x86 instructions")
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True, check=True)
    return Counter(ARITHMETIC.findall(text.stdout))


def assert_equal(ours: Compiled, plain: Compiled, config: Any) -> None:
    expected, got = outputs(plain, config), outputs(ours, config)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].tobytes() == value.tobytes(), name
    assert arithmetic(ours.library) == arithmetic(plain.library)
    assert ours.library.stat().st_size <= 1.05 * plain.library.stat().st_size


@pytest.mark.parametrize("name", list(MODELS))
def test_the_same_to_the_last_bit_when_compiled_apart_and_when_reused(bench: Bench, name: str) -> None:
    config = tvm_compile.chat_config(**MODELS[name])
    plain = bench.compile(config, apart=False)
    first = bench.compile(config, apart=True)
    again = bench.compile(config, apart=True)
    assert first.report.way == again.report.way == "kernels", first.log
    assert first.report.taken == again.report.taken == ("kernels", "nvcc", "parser")
    assert first.report.lowered == again.report.lowered > 40
    assert first.report.kernels == len(first.report.reused) + len(first.report.made) > 15
    assert len(first.report.made) > 10, "each of these models has kernels of its own"
    assert first.stages[-1] == f"{first.report.kernels}/{first.report.kernels}, {len(first.report.reused)} reused"
    assert len(again.report.reused) == again.report.kernels == first.report.kernels
    assert again.report.saved > 0
    assert again.report.made == ()
    assert_equal(first, plain, config)
    assert_equal(again, plain, config)


def test_what_is_lowered_apart_is_what_is_lowered_as_one(clean: Bench, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Own:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path, target=None):\n"
        "        if name == 'mlc_jitd_kernels.hook':\n"
        "            from tvm.tirx import compilation_pipeline as pipelines\n"
        "            known = pipelines.PIPELINE_MAP['s_tir']\n"
        "            pipelines.PIPELINE_MAP['s_tir'] = lambda: known()\n"  # somebody's own: not for us to share out
        "sys.meta_path.insert(0, Own)\n"
    )
    config = tvm_compile.chat_config(**MODELS["qwen2"])
    apart = clean.compile(config, apart=True)
    whole = clean.compile(config, apart=True, environ={"PYTHONPATH": str(tmp_path)})
    assert (apart.report.lowered > 40, whole.report.lowered) == (True, 0)
    assert set(whole.report.reused) == set(apart.report.made), "every key is the same"
    assert len(apart.report.made) == apart.report.kernels


@pytest.mark.parametrize("workers", [1, 12])
def test_any_number_of_children_makes_the_same_kernels_with_the_last_ones_noalias(tmp_path: Path, workers: int) -> None:
    script, said, reports = Path(__file__).with_name("kernel_chain.py"), [], []
    plain = Command(
        (sys.executable, "-P", str(script), str(tmp_path / "plain.so")), tuple(os.environ.items()), tmp_path
    )
    commands = [plain]
    for number, count in enumerate((2, workers)):
        (new := tmp_path / str(number)).mkdir()
        library = dataclasses.replace(plain, argv=(*plain.argv[:-1], str(new / "lib.so")))
        commands.append(kernels.accelerated(library, store=tmp_path / "none", new=new, identity="a TVM", workers=count))
    for command in commands:
        env = {**dict(command.env), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command.argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        reports.append(kernels.read_report(tmp_path / str(len(reports) - 1)))
    assert [(report.way, report.failures) for report in reports[1:]] == [("kernels", 0)] * 2
    assert set(reports[1].made) == set(reports[2].made)
    assert reports[1].kernels == len(reports[1].made) > 7
    assert len(set(said)) == 1, "they compute the same"


def test_a_warm_compiler_forks_a_job_that_forks_for_its_kernels(clean: Bench) -> None:
    config = tvm_compile.chat_config(**MODELS["llama"])
    pool = WarmCompilers(most=1, idle=3600, memory_free=lambda: 1 << 40)
    try:
        first, again = clean.compile_warm(config, pool), clean.compile_warm(config, pool)
        assert (pool.counts.warm, pool.counts.plain) == (2, 0)
    finally:
        pool.close()
    assert len(first.report.made) == first.report.kernels == len(again.report.reused)
    assert_equal(first, clean.compile(config, apart=False), config)


@pytest.mark.timeout(400 + 120 * OVERRIDES)
@hypothesis.settings(
    max_examples=OVERRIDES, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(
    context=st.integers(64, 4096), prefill=st.integers(16, 512), batch=st.integers(1, 64)
)  # fmt: skip
def test_with_other_overrides_nearly_all_is_reused_and_equal(
    bench: Bench, context: int, prefill: int, batch: int
) -> None:
    config = tvm_compile.chat_config(**MODELS["llama"])
    bench.compile(config, apart=True)
    changed = f"context_window_size={context};prefill_chunk_size={prefill};max_batch_size={batch}"
    ours = bench.compile(config, apart=True, overrides=changed)
    assert len(ours.report.reused) >= 0.8 * ours.report.kernels
    plain = bench.compile(config, apart=False, overrides=changed)
    assert arithmetic(ours.library) == arithmetic(plain.library)
    expected, got = (loaded(each, config) for each in (plain, ours))
    assert got.metadata == expected.metadata
    for library in (expected, got):
        library.sequences(0)
    steps = [library.step("prefill", {0: 7}, library.embed(tvm_compile.PROMPT, 1, 7)) for library in (expected, got)]
    assert steps[0].tobytes() == steps[1].tobytes()


def test_every_field_of_every_node_type_is_in_the_text(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tvm_compile.chat_config(**MODELS["llama"])))
    script = Path(__file__).with_name("kernel_mutations.py")
    done = subprocess.run(
        [sys.executable, "-P", script, config, TARGET], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    positions = re.compile(r".*\.span|ir\.((Sequential)?Span|SourceName)\..*")  # reach debug information alone
    named = re.compile(r"ir\.Op\.(?!name$).*|target\.TargetKind\.(?!name$).*")  # TVM's own tables, by name
    assert [each for each in found["kept"] if not positions.fullmatch(each) and not named.fullmatch(each)] == []
    for each in (
        "ir.IntImm.value", "ir.FloatImm.value", "ir.StringImm.value", "ir.PrimType.dtype", "ir.Var.name",
        "tirx.For.extent", "tirx.For.kind", "tirx.For.min", "tirx.AttrStmt.attr_key", "tirx.BufferType.strides",
        "tirx.BufferType.shape", "tirx.BufferType.data_alignment", "ir.Op.name", "ir.DictAttrs.__dict__",
        "target.Target.attrs", "a constant's bytes", "a constant's dtype",
    ):  # fmt: skip
        assert each in found["seen"], each
    assert found["changes"] > 200


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    replace(path, bytes(content))


def replace(path: Path, content: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(content)


DAMAGE = {
    "a bit": flip,
    "cut off": lambda path: replace(path, path.read_bytes()[:-1]),
    "empty": lambda path: replace(path, b""),
    "garbage": lambda path: replace(path, os.urandom(4096)),
    "writable by others": lambda path: path.chmod(0o666),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "another's": None,
}


def test_damaged_kernels_are_counted_and_compiled_anew(clean: Bench) -> None:
    config = tvm_compile.chat_config(**MODELS["llama"])
    plain, first = clean.compile(config, apart=False), clean.compile(config, apart=True)
    before = clean.store.counters().get("kernels_damaged", 0)
    paths = [clean.store.root / key[:2] / key for key in first.report.made[: len(DAMAGE)]]
    for path, damage in zip(paths, DAMAGE.values(), strict=True):
        if damage is None:
            path.unlink()
            shutil.copy(clean.store.root / first.report.made[-1][:2] / first.report.made[-1], path)
        else:
            damage(path)
    again = clean.compile(config, apart=True)
    assert sorted(again.report.damaged) == sorted(path.name for path in paths)
    assert sorted(again.report.made) == sorted(path.name for path in paths)
    assert clean.store.counters()["kernels_damaged"] - before == len(DAMAGE)
    assert_equal(again, plain, config)
    third = clean.compile(config, apart=True)
    assert third.report.damaged == ()
    assert len(third.report.reused) == third.report.kernels


def run_alone(bench: Bench, folder: Path, config: Any, **more: Any) -> subprocess.Popen[str]:
    """A plain subprocess, which a test can meet half-way."""
    _, command = bench.command(folder, config, apart=True)
    return subprocess.Popen(
        command.argv,
        env=dict(command.env),
        cwd=command.cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def test_a_child_that_is_killed_leaves_it_to_tvm(clean: Bench) -> None:
    config = tvm_compile.chat_config(**MODELS["llama"])
    folder = clean.fresh()
    process = run_alone(clean, folder, config)
    assert process.stderr is not None
    for line in process.stderr:
        if kernels.stage(line):
            break
    children: list[psutil.Process] = []
    while not children and process.poll() is None:
        children = psutil.Process(process.pid).children()
    children[0].send_signal(signal.SIGKILL)
    rest = process.communicate()[1]
    assert process.returncode == 0, rest
    done = clean.settle(folder, rest)
    assert (done.report.way, done.report.failures) == ("plain", 1)
    assert not any(each.is_running() for each in children)
    assert_equal(done, clean.compile(config, apart=False), config)


def test_children_end_with_a_compile_that_is_killed(clean: Bench) -> None:
    folder = clean.fresh()
    process = run_alone(clean, folder, tvm_compile.chat_config(**MODELS["llama"]))
    assert process.stderr is not None
    for line in process.stderr:
        if kernels.stage(line):
            break
    children: list[psutil.Process] = []
    while len(children) < 2 and process.poll() is None:
        children = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    process.stderr.close()
    assert len(children) == 2
    psutil.wait_procs(children, timeout=10)
    assert not any(each.is_running() for each in children)
    assert list(clean.store.root.rglob("*")) == [], "a compile never writes into the store"


def test_a_full_disk_keeps_nothing_and_the_library_is_right(clean: Bench) -> None:
    config = tvm_compile.chat_config(**MODELS["llama"])
    folder = clean.fresh()
    kept = folder / "new" / "kernels"
    kept.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", kept], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a small file system needs root, and leave to do it")
    try:
        done = clean.compile(config, apart=True, folder=folder)
    finally:
        subprocess.run(["umount", kept], check=True)
    assert done.report.way == "kernels"
    assert done.report.unkept > 15
    assert_equal(done, clean.compile(config, apart=False), config)


def test_a_process_with_threads_is_not_forked_and_reuses_all_the_same(clean: Bench, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    config = tvm_compile.chat_config(**MODELS["llama"])
    reports = [clean.compile(config, apart=True, environ={"PYTHONPATH": str(tmp_path)}) for _ in range(2)]
    assert reports[0].report.way == "kernels"
    assert len(reports[1].report.reused) == reports[1].report.kernels == len(reports[0].report.made)
    assert_equal(reports[0], clean.compile(config, apart=False), config)


def test_whatever_fails_inside_tvm_does_it_and_it_is_counted(clean: Bench, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "from importlib.abc import MetaPathFinder\n"
        "class Spoil(MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'mlc_jitd_kernels.keys': raise RuntimeError('spoiled')\n"
        "sys.meta_path.insert(0, Spoil())\n"
    )
    done = clean.compile(tvm_compile.chat_config(**MODELS["llama"]), apart=True, environ={"PYTHONPATH": str(tmp_path)})
    assert done.library.is_file()
    assert "spoiled" in done.log
    assert done.log.count("mlc-jitd kernels: plain") == 1
    assert (done.report.way, done.report.failures) == ("plain", 1)


def test_an_archive_with_a_prefix_as_for_phones_computes_the_same(bench: Bench, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tvm_compile.chat_config(**MODELS["llama"] | {"active_vocab_size": None})))
    script = Path(__file__).with_name("kernel_archive.py")
    found = []
    for number, store in enumerate(("-", str(bench.store.root))):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-P", script, config, TARGET, folder, store],
            env={**os.environ, "TVM_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout))
    assert (found[0]["way"], found[1]["way"]) == ("", "kernels")
    assert found[0]["digest"] == found[1]["digest"]
    assert found[1]["objects"] == found[0]["objects"] + found[1]["kernels"]


def test_an_llvm_of_the_system_is_in_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(kernels.LAUNCH.parent))
    from mlc_jitd_kernels import keys, nodes

    assert keys._foreign_llvm() == [], "TVM's wheels have theirs inside"
    library = tmp_path / "libLLVM.so.22"
    library.write_bytes(b"x" * 4096)
    with library.open("rb") as file, mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_READ):
        ((path, size, _),) = before = keys._foreign_llvm()
        assert (path, size) == (str(library), 4096)
        os.utime(library, (1, 1))
        assert keys._foreign_llvm() != before
        library.unlink()
        with pytest.raises(nodes.UnknownNodeError, match="not there any more"):
            keys._foreign_llvm()


def test_a_function_names_what_it_calls_and_not_what_its_messages_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(kernels.LAUNCH.parent))
    from mlc_jitd_kernels import nodes
    from tvm import tirx

    x = tirx.Var("looks_like_a_function", "int32")
    inner = tvm.ir.GlobalVar("private")
    body = tirx.SeqStmt(
        [
            tirx.Evaluate(tirx.call_extern("int32", "outer", x)),
            tirx.Evaluate(tvm.ir.Call(inner, [x])),
            tirx.AttrStmt(x, "pragma_import_llvm", tvm.ir.StringImm("; code"), tirx.Evaluate(tirx.const(0, "int32"))),
            tirx.AssertStmt(tirx.const(1, "bool"), tvm.ir.StringImm("ValueError"), [tvm.ir.StringImm("message")]),
        ]
    )
    names = nodes.Writer().text(tirx.PrimFunc([x], body)).names
    assert {"outer", "private", "pragma_import_llvm"} <= names
    assert not names & {"message", "looks_like_a_function", "ValueError"}
