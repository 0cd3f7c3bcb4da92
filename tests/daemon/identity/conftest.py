"""What the identity tests share: the double, requests, and the interpreter with the real compiler.

The tests marked ``mlc_llm`` read MLC_JITD_TEST_PYTHON (an interpreter that has mlc_llm) and MLC_JITD_TEST_PYTHONPATH
(its PYTHONPATH, if it needs one); the model configs come from MLC_JITD_SHARED, or a folder ``shared`` beside the
checkout.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlc_jit.messages import JitRequest
from mlc_jit.variables import collect
from mlc_jitd.identity import Identifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def double() -> ModuleType:
    spec = importlib.util.spec_from_file_location("double", HERE.parents[1] / "double" / "double.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "double.log"


@pytest.fixture
def ask(double: ModuleType, log: Path) -> Callable[..., JitRequest]:
    """A request to the double; keyword arguments replace its fields, ``told`` and ``fields`` make its config."""

    def make(
        told: dict[str, Any] | None = None,
        fields: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        **more: Any,
    ) -> JitRequest:
        given = {
            "config": double.config(told, **(fields or {})),
            "device": "cpu",
            "python": sys.executable,
            "environment": collect({**double.environment(log), **(env or {})}),
        }
        return JitRequest(**{**given, **more})

    return make


@pytest.fixture
def identifier(tmp_path: Path) -> Identifier:
    return Identifier(tmp_path / "memory", resolve_seconds=15)


@pytest.fixture(scope="session")
def models() -> Path:
    shared = os.environ.get("MLC_JITD_SHARED")
    folder = (Path(shared) if shared else HERE.parents[3] / "shared") / "models"
    if not folder.is_dir():
        pytest.skip("no folder of model configs: set MLC_JITD_SHARED, or put `shared` beside the checkout")
    return folder


@pytest.fixture(scope="session")
def real_environment() -> dict[str, str]:
    """The client's environment for the real compiler."""
    if "MLC_JITD_TEST_PYTHON" not in os.environ:
        pytest.skip("no interpreter with mlc_llm: set MLC_JITD_TEST_PYTHON (and MLC_JITD_TEST_PYTHONPATH)")
    env = {**os.environ}
    env.pop("PYTHONPATH", None)
    if "MLC_JITD_TEST_PYTHONPATH" in os.environ:
        env["PYTHONPATH"] = os.environ["MLC_JITD_TEST_PYTHONPATH"]
    return collect(env)


@pytest.fixture(scope="session")
def real_identifier(tmp_path_factory: pytest.TempPathFactory) -> Identifier:
    return Identifier(tmp_path_factory.mktemp("memory"))
