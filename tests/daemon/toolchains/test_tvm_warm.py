"""A library compiled in a warm compiler computes what one from a plain subprocess computes, to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("tvm")
np = pytest.importorskip("numpy")
sys.path.insert(0, str(Path(__file__).parent))

import test_tvm_compile as plain  # noqa: E402

from mlc_jitd.build import Kind, Limits, StopSignal, WarmCompilers  # noqa: E402
from mlc_jitd.toolchains import CompileJob, toolchain  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.tvm,
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are no warm compilers"),
]


@pytest.fixture
def pool() -> Iterator[WarmCompilers]:
    made = WarmCompilers(most=1, idle=600, memory_free=lambda: 1 << 40)
    yield made
    made.close()


def test_the_same_function(tmp_path: Path, pool: WarmCompilers, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = toolchain("tvm")

    def compile_warm(folder: Path, config: Any) -> subprocess.CompletedProcess[str]:
        text = json.dumps(config).encode()
        job = CompileJob("tvm", sys.executable, text, "", "O2", plain.TARGET, None, "so", (("PATH", "/usr/bin:/bin"),))
        scratch = folder / "scratch"
        scratch.mkdir()
        command = chain.command(job, scratch=scratch, output=folder / "lib.so", cores=1)
        kind = Kind("tvm", "", lambda own: chain.warm(job, folder=own), lambda: True)
        said: list[str] = []
        outcome = pool.run(command, kind, Limits(), log=folder / "log", on_line=said.append, stop=StopSignal())
        stages = [found.name for line in said if (found := chain.stage(line))]
        assert stages == plain.STAGES
        assert outcome.exit_status is not None
        return subprocess.CompletedProcess([], outcome.exit_status, "", outcome.log_tail)

    libraries = []
    for number, way in enumerate((plain.run_compiler, compile_warm, compile_warm)):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.setattr(plain, "run_compiler", way)
        libraries.append(plain.Library(folder, "llama"))
    assert (pool.counts.warm, pool.counts.plain, pool.counts.started) == (2, 0, 1)

    def logits(library: plain.Library) -> np.ndarray:
        library.sequences(0)
        rows = [library.step("prefill", {0: 7}, library.embed(plain.PROMPT, 1, 7))]
        rows += [library.step("decode", {0: 1}, library.embed([token], 1, 1)) for token in plain.OTHER]
        return np.concatenate(rows)

    expected = logits(libraries[0])
    assert np.abs(expected).max() > 0
    for library in libraries[1:]:
        assert library.metadata == libraries[0].metadata
        np.testing.assert_array_equal(logits(library), expected)
