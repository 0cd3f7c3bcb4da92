"""Is this TVM one whose code generation, lowering and script parser are known? By the text of what is relied on.

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

Known = dict[str, dict[str, frozenset[str]]]
"""Files of TVM's Python package, the functions in them that have to be known ones, and the digests of their texts."""

CODE_GENERATION: Known = {
    "tirx/build.py": {
        "codegen_build": frozenset({"3acdd3e76d973713"}),
        "tir_to_runtime": frozenset({"778362a3ad955fd0"}),
    },
    "relax/vm_build.py": {"_vmlink": frozenset({"0359af26b44757b0"})},
    "runtime/module.py": {
        "load_static_library": frozenset({"eb83ab14f8063785"}),
        "Module.export_library": frozenset({"a972204a1269c8ab"}),
        "Module._collect_dso_modules": frozenset({"8d9b169e40b6ef3a"}),
    },
}
"""Of apache-tvm 0.26 and 0.27."""

LOWERING: Known = {
    "tirx/build.py": {
        "build": frozenset({"1e64b882e03694de"}),
        "split_host_device_mods": frozenset({"d2738962fee7336c", "d9fd8610185e87ab"}),
    },
    "tirx/compilation_pipeline.py": {
        "get_tir_pipeline": frozenset({"1c7943a92520f0e3"}),
        "get_default_tir_pipeline": frozenset({"e4daa5dcf48c9608"}),
    },
    "s_tir/pipeline.py": {
        "default_s_tir_pipeline": frozenset({"0559a3281459db37", "cc81d34b162c2cd8"}),
        "finalize_host_passes": frozenset({"50a40462fdad8113"}),
    },
}
"""Likewise; where there are two, of 0.26 and of 0.27."""

PARSER: Known = {
    "script/parser/core/evaluator.py": {
        "_eval_expr": frozenset({"dc560c255a7952a8"}),
        "ExprEvaluator._eval_expr": frozenset({"17a54357759333a0"}),
    },
    "script/parser/core/doc.py": {
        "to_doc": frozenset({"004d5a3529edc43f"}),
        "from_doc": frozenset({"54ad8115d87693f4"}),
        "parse": frozenset({"0e2a7484d5277768"}),
        "_is_atomic_type": frozenset({"87b32af672c4a9cd"}),
        "_get_registry_entry": frozenset({"86754bec1fb11c37"}),
        "_register_default": frozenset({"66fd8f4c9883682b", "d612a45cbfe6a192"}),
    },
    "script/parser/core/utils.py": {
        "is_defined_in_class": frozenset({"41fa7a1cfcda40da"}),
        "resolve_closure_vars": frozenset({"56d537775eb4b4c5"}),
    },
    "tirx/script/parser/entry.py": {"prim_func": frozenset({"680a0dc2ce7f9803", "3699e1a1480ed66b"})},
}
"""Likewise; where there are two, of 0.26 and of 0.27."""

VERSIONS = ("0.26.", "0.27.")
"""Whose native side (which symbols an object needs and makes) was read and tried."""


def mismatch(known: Known = CODE_GENERATION) -> str:
    """Why this interpreter's TVM is none of the known ones, empty if it is one."""
    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.origin:
        return "there is no tvm"
    return mismatch_in(os.path.dirname(spec.origin), known)


def mismatch_in(package: str, known: Known = CODE_GENERATION) -> str:
    """As `mismatch`, for a folder that is TVM's package."""
    version = _version(package)
    if not version.startswith(VERSIONS):
        return f"TVM {version or 'without a version'} is not one of {', '.join(name + 'x' for name in VERSIONS)}"
    for name, wanted in known.items():
        try:
            with open(os.path.join(package, name), encoding="utf-8") as file:
                source = file.read()
            found = digests(source, tuple(wanted))
        except (OSError, ValueError, SyntaxError) as error:
            return f"TVM's {name} can't be read: {error}"
        for function, texts in wanted.items():
            if function not in found:
                return f"TVM's {name} has no {function}"
            if found[function] not in texts:
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
            for name in _bound(node):
                if prefix + name in wanted:
                    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
                    text = found.get(prefix + name, "") + "\n".join(lines[first - 1 : node.end_lineno])
                    found[prefix + name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement gives a meaning to: a function's own, and those that are assigned."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _version(package: str) -> str:
    try:
        with open(os.path.join(package, "_version.py"), encoding="utf-8") as file:
            said = re.search(r"""^__version__ = .*?["']([^"']+)""", file.read(), re.MULTILINE)
    except OSError:
        return ""
    return said[1] if said else ""


if __name__ == "__main__":
    print(json.dumps({"mismatch": mismatch(), "lowering": mismatch(LOWERING), "parser": mismatch(PARSER)}))
