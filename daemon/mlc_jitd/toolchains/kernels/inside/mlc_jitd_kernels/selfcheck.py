"""Is this TVM one whose code generation is known? By the text of the functions that are stood in for or relied on.

Reads sources and imports nothing, so that ``mlc-jit doctor`` can ask too: ``python -P selfcheck.py`` prints JSON.
"""

# ruff: noqa: PTH118, PTH120, PTH123
from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import re

RELIED_ON: dict[str, tuple[str, ...]] = {
    "tirx/build.py": ("codegen_build", "tir_to_runtime"),
    "relax/vm_build.py": ("_vmlink",),
    "runtime/module.py": ("load_static_library", "Module.export_library", "Module._collect_dso_modules"),
}
"""Files of TVM's Python package, and the functions in them that have to be the known ones."""

KNOWN: dict[str, frozenset[str]] = {
    "tirx/build.py:codegen_build": frozenset({"3acdd3e76d973713"}),
    "tirx/build.py:tir_to_runtime": frozenset({"778362a3ad955fd0"}),
    "relax/vm_build.py:_vmlink": frozenset({"0359af26b44757b0"}),
    "runtime/module.py:load_static_library": frozenset({"eb83ab14f8063785"}),
    "runtime/module.py:Module.export_library": frozenset({"a972204a1269c8ab"}),
    "runtime/module.py:Module._collect_dso_modules": frozenset({"8d9b169e40b6ef3a"}),
}
"""Digests of those functions' texts, of apache-tvm 0.26 and 0.27."""

VERSIONS = ("0.26.", "0.27.")
"""Whose native side (which symbols an object needs and makes) was read and tried."""


def mismatch() -> str:
    """Why this interpreter's TVM is none of the known ones, empty if it is one."""
    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.origin:
        return "there is no tvm"
    return mismatch_in(os.path.dirname(spec.origin))


def mismatch_in(package: str) -> str:
    """As `mismatch`, for a folder that is TVM's package."""
    version = _version(package)
    if not version.startswith(VERSIONS):
        return f"TVM {version or 'without a version'} is not one of {', '.join(name + 'x' for name in VERSIONS)}"
    for name, wanted in RELIED_ON.items():
        try:
            with open(os.path.join(package, name), encoding="utf-8") as file:
                source = file.read()
            found = digests(source, wanted)
        except (OSError, ValueError, SyntaxError) as error:
            return f"TVM's {name} can't be read: {error}"
        for function in wanted:
            if function not in found:
                return f"TVM's {name} has no {function}"
            if found[function] not in KNOWN.get(f"{name}:{function}", ()):
                return f"TVM's {function} ({name}) is not the one that is known"
    return ""


def digests(source: str, wanted: tuple[str, ...]) -> dict[str, str]:
    """The first 16 hex digits of the SHA-256 of the text of each wanted function: ``name`` or ``Class.name``."""
    lines = source.splitlines()
    found = {}
    scopes: list[tuple[str, list[ast.stmt]]] = [("", ast.parse(source).body)]
    for prefix, body in scopes:
        for node in body:
            if isinstance(node, ast.ClassDef):
                scopes.append((f"{prefix}{node.name}.", node.body))
            elif isinstance(node, ast.FunctionDef) and prefix + node.name in wanted:
                text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                found[prefix + node.name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def _version(package: str) -> str:
    try:
        with open(os.path.join(package, "_version.py"), encoding="utf-8") as file:
            said = re.search(r"""^__version__ = .*?["']([^"']+)""", file.read(), re.MULTILINE)
    except OSError:
        return ""
    return said[1] if said else ""


if __name__ == "__main__":
    print(json.dumps({"mismatch": mismatch()}))
