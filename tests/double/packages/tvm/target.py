"""A target is a dict with a host."""

from __future__ import annotations

import json
from typing import Any


class _Kind:
    def __init__(self, name: str) -> None:
        self.name = name


class Target:
    """Built from a dict or its JSON, or another target and a host."""

    def __init__(self, source: Any, host: Target | None = None) -> None:
        if isinstance(source, Target):
            source = source.export()
        if isinstance(source, str):
            source = json.loads(source)
        self._fields = {"keys": [source["kind"]], "tag": "", **source}
        if host is not None:
            self._fields["host"] = host.export()
        self.kind = _Kind(self._fields["kind"])

    @property
    def host(self) -> Target | None:
        """The host's target, if there is one."""
        found = self._fields.get("host")
        return None if found is None else Target(found)

    def export(self) -> dict[str, Any]:
        """The fields."""
        return dict(self._fields)

    @staticmethod
    def from_device(name: str) -> Target:  # noqa: ARG004 - as upstream calls it
        """The local CPU, of a make of our own."""
        return Target({"kind": "llvm", "mcpu": "double", "mtriple": "x86_64-unknown-linux-gnu"})
