"""The key of a group of functions: a digest over everything that reaches code generation.

The functions' whole text, their names, the module's attributes, the target, the pass context, the build of TVM that
the daemon named, the LLVM in it, and this code itself. Where one of these can't be written down whole, there is no key.
"""

# ruff: noqa: PTH116, PTH118, PTH120, PTH123, PTH208
from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from .nodes import UnknownNodeError, Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = 1
NOT_SEEN = ("external_mods", "const_name_to_constant")
"""Module attributes for the linking of the executable: compiled things, which code generation is not given here."""


def surroundings(writer: Writer, identity: str, target: Any, attributes: dict[str, Any]) -> str:
    """What all functions of a module share.

    Args:
        writer: Writes nodes down.
        identity: The build of TVM, from the daemon.
        target: The host target.
        attributes: Of the module, without `NOT_SEEN`.

    Raises:
        UnknownNodeError: Some of it can't be seen, or means something else elsewhere.
    """
    from tvm.ir.transform import PassContext
    from tvm.target.codegen import llvm_version_major

    if "native" in str(target.attrs.get("mcpu", "")):
        raise UnknownNodeError("a target that is whatever this machine is")
    context = PassContext.current()
    facts = {
        "format": FORMAT,
        "code": _own_digest(),
        "tvm": identity,
        "llvm": [str(llvm_version_major(allow_none=True)), *_foreign_llvm()],
        "target": writer.text(target).digest,
        "attributes": {name: writer.text(value).digest for name, value in sorted(attributes.items())},
        "passes": {
            "level": int(context.opt_level),
            "required": sorted(map(str, context.required_pass)),
            "disabled": sorted(map(str, context.disabled_pass)),
            "config": {str(name): writer.text(value).digest for name, value in sorted(context.config.items())},
        },
    }
    return _digest(facts)


def key(shared: str, functions: Sequence[tuple[str, str]]) -> str:
    """The key of a group: 64 hex digits.

    Args:
        shared: From `surroundings`.
        functions: Name in the module and digest of the text, of each function.
    """
    return _digest([shared, sorted(functions)])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _foreign_llvm() -> list[tuple[str, int, int]]:
    """LLVM libraries that are loaded by themselves, with size and time: TVM's build does not tell of the system's.

    Raises:
        UnknownNodeError: One was replaced since.
    """
    found = set()
    with open("/proc/self/maps", "rb") as file:
        paths = {line.split(None, 5)[-1].rstrip() for line in file if b"libLLVM" in line}
    for path in paths:
        try:
            facts = os.stat(path)
        except OSError as error:
            raise UnknownNodeError(f"{os.fsdecode(path)} is loaded and not there any more") from error
        found.add((os.fsdecode(path), facts.st_size, facts.st_mtime_ns))
    return sorted(found)


def _own_digest() -> str:
    """Of the sources beside this file: another version of them shares nothing with this one."""
    folder = os.path.dirname(__file__)
    digest = hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        if name.endswith(".py"):
            with open(os.path.join(folder, name), "rb") as file:
                content = file.read()
            digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
