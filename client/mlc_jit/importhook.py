"""Tells when a module has been loaded: a finder that lets all others find, and looks on while the module runs.

Standard library only, and nothing of this package: the start-up hook of ``mlc-jit exec`` loads this file by its path,
also into interpreters that have no mlc_jit.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class Watcher:
    """A meta path finder for one module's name; see the module's docstring.

    Args:
        name: The module's full name.
        loaded: Called with the module each time that it was loaded, before its importer sees it. What it raises
            becomes the import's error.
    """

    def __init__(self, name: str, loaded: Callable[[ModuleType], None]) -> None:
        self.name = name
        self._loaded = loaded
        self._finding = threading.local()

    def begin(self) -> None:
        """Watch from now on."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def end(self) -> None:
        """Watch no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, with a loader that tells."""
        if fullname != self.name or getattr(self._finding, "now", False):
            return None
        self._finding.now = True
        try:
            spec = self._found(fullname, path, target)
        finally:
            self._finding.now = False
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, self._loaded)  # type: ignore[assignment]
        return spec

    def _found(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    return spec
        return None


class _Loader:
    """Another loader, with a word after it; the module itself keeps the other one."""

    def __init__(self, inner: Any, loaded: Callable[[ModuleType], None]) -> None:
        self._inner = inner
        self._told = loaded

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        create = getattr(self._inner, "create_module", None)
        module: ModuleType | None = None if create is None else create(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._inner
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        self._inner.exec_module(module)
        self._told(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
