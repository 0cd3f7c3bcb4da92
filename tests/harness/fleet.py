"""The simulated fleet of ``benchmarks/fleet_world.py``, for tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def load() -> Any:
    """The module."""
    name = "fleet_world"
    if name not in sys.modules:
        path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]
