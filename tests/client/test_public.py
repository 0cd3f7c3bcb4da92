from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest

import mlc_jit
from mlc_jit import errors

HEAVY = ("tvm", "numpy", "watchdog", "rich", "msgspec", "mlc_llm", "mlc_jitd", "torch")
NOT_FOR_A_HIT = ("asyncio", "subprocess", "filelock", "psutil", "ssl")


def _fresh(code: str) -> str:
    """What a new interpreter says; in isolated mode, so that no variable or start-up file has a say."""
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout


def _loaded_by(statement: str) -> set[str]:
    code = (
        "import sys; before = set(sys.modules); {}; import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    return set(json.loads(_fresh(code.format(statement))))


def test_all_is_sorted_and_complete() -> None:
    assert mlc_jit.__all__ == sorted(mlc_jit.__all__)
    assert len(set(mlc_jit.__all__)) == len(mlc_jit.__all__)
    for name in mlc_jit.__all__:
        assert getattr(mlc_jit, name) is not None
        assert name in dir(mlc_jit)
    assert set(errors.__all__) - {"error_class"} <= set(mlc_jit.__all__)


def test_what_comes_later_is_the_same_thing() -> None:
    from mlc_jit import api, messages

    assert mlc_jit.jit is api.jit
    assert mlc_jit.ajit is api.ajit
    assert mlc_jit.JITResult is api.JITResult
    assert mlc_jit.Progress is messages.Progress


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'compile_everything'"):
        _ = mlc_jit.compile_everything
    with pytest.raises(ImportError):
        from mlc_jit import compile_everything  # type: ignore[attr-defined] # noqa: F401


def test_a_star_import_brings_everything() -> None:
    out = _fresh("from mlc_jit import *; import mlc_jit; print(all(n in globals() for n in mlc_jit.__all__))")
    assert out.strip() == "True"


@pytest.mark.parametrize("statement", ["import mlc_jit", "from mlc_jit import jit"])
def test_importing_pulls_in_nothing_that_a_hit_does_not_need(statement: str) -> None:
    loaded = _loaded_by(statement)
    assert "mlc_jit" in loaded
    assert not loaded & set(HEAVY)
    assert not loaded & set(NOT_FOR_A_HIT)


def test_importing_writes_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", "from mlc_jit import *"], capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")


def _cpu_seconds(statement: str) -> float:
    return float(_fresh(f"import time; a = time.process_time(); {statement}; print(time.process_time() - a)"))


@pytest.mark.parametrize(
    ("statement", "most"),
    [
        ("import mlc_jit", 1.5),
        # With all that a hit needs: the typed messages are two thirds of what it costs over pyzmq and msgpack.
        ("from mlc_jit import jit", 3.0),
    ],
)
def test_importing_costs_little_more_than_pyzmq_and_msgpack(statement: str, most: float) -> None:
    """CPU time, since the host is shared; alternately, so that its changing clock meets both alike."""
    base = "import zmq, msgpack"
    pairs = [(_cpu_seconds(base), _cpu_seconds(statement)) for _ in range(11)]
    ratio = statistics.median(ours for _, ours in pairs) / statistics.median(theirs for theirs, _ in pairs)
    assert ratio <= most, f"{ratio:.2f}"
