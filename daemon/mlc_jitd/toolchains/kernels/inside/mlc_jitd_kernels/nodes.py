"""TIR as text: everything in a function that code generation can see, by TVM's own reflection.

TVM tells each node type's fields with their place in memory. So this walks every field of every node that can be
reached, and *refuses* a node of which some byte lies in no field: what can't be seen can't be left out unseen. (TVM's
`script()` leaves out constants' bytes; `script(show_meta=True)` and `save_json` crash on 0.26 and 0.27.)

Equal nodes are written once, and variables and buffers are numbered in the order in which they are met: sharing of
nodes does not count, identity of variables does. Source positions (`span`) are left out: they reach line numbers of the
debug information alone.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any, ClassVar

import tvm_ffi
from tvm_ffi import core

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER_BYTES = 24
"""What comes before the fields of every object: counts, type, deleter."""

POINTER_BYTES = 8
LEFT_OUT = ("span",)

KNOWN_FIELDS = {
    "ir.Op": ("name",),
    "target.TargetKind": ("name",),
    "target.Target": ("kind", "tag", "keys", "attrs", "host"),
}
"""Types with memory outside of their fields, and the fields that say all of them.

The first two are entries of TVM's own tables: the name stands for what the library has built in, and that is in the key
too. A target remembers its own text beside its fields.
"""

WITH_IDENTITY = frozenset(
    {
        "ir.Var",
        "tir.Var",
        "tirx.Var",
        "tir.SizeVar",
        "tirx.SizeVar",
        "tir.Buffer",
        "tirx.Buffer",
        "tir.IterVar",
        "tirx.IterVar",
    }
)
"""Types of which two with equal fields are two."""

FAMILIES = ("ir.", "prim.", "relax.", "target.", "tir.", "tirx.", "arith.")
"""Where node types of programs come from. Anything else (a function, a module, a handle) has no text."""


class UnknownNodeError(Exception):
    """A node can't be written down completely; the text says which."""


class Text:
    """What was found in one function.

    Attributes:
        digest: SHA-256 over everything, hex.
        weight: What compiling may cost, to compare with others: the number of different nodes, and for each vector
            with a stride the square of its lanes (LLVM's SLP vectoriser searches it: nine tenths of a heavy kernel).
        names: Global variables, texts that are arguments of calls, keys of attributes: each may name another function.
    """

    __slots__ = ("digest", "names", "weight")

    def __init__(self, digest: str, weight: int, names: frozenset[str]) -> None:
        self.digest = digest
        self.weight = weight
        self.names = names


class Writer:
    """Writes functions down; knows the node types that it has met."""

    _names_of: ClassVar = {"GlobalVar": "name_hint", "Call": "args", "AttrStmt": "attr_key"}

    def __init__(self) -> None:
        self._plans: dict[type, Callable[[Any], tuple[Any, ...]]] = {}
        self._clear()

    def text(self, value: Any) -> Text:
        """A function, a target, attributes, or anything else made of nodes.

        Raises:
            UnknownNodeError: Some part of it could not be seen.
        """
        try:
            root = self._visit(value)
            digest = hashlib.sha256()
            for entry in self._ids:
                digest.update(repr(entry).encode("utf-8", "surrogatepass") + b"\n")
            digest.update(repr(root).encode("utf-8", "surrogatepass"))
            return Text(digest.hexdigest(), len(self._ids) + self._strided, frozenset(self._names))
        except RecursionError as error:
            raise UnknownNodeError("it is nested too deeply") from error
        finally:
            self._clear()

    def _clear(self) -> None:
        self._memo: dict[int, int] = {}
        self._ids: dict[tuple[Any, ...], int] = {}
        self._names: set[str] = set()
        self._held: list[Any] = []
        self._identities = 0
        self._strided = 0

    def _visit(self, value: Any) -> Any:
        """A node's number, plain; any other value in a tuple that says of which kind it is."""
        kind = type(value)
        plan = self._plans.get(kind)
        if plan is None:
            if kind is int:
                return "i", value
            if value is None or kind is bool:
                return "c", str(value)
            if kind is float:
                return "f", struct.pack("<d", value)  # by its bits: -0.0, and each NaN
            if isinstance(value, str):
                return "s", str(value)
            if not isinstance(value, core.CObject):
                return _plain(value)
            plan = self._plans[kind] = self._plan(kind, value)
        handle = value.__chandle__()
        number = self._memo.get(handle)
        if number is None:
            self._held.append(value)  # an address means this node for as long as it is held
            entry = plan(value)
            number = self._memo[handle] = self._ids.setdefault(entry, len(self._ids))
        return number

    def _plan(self, kind: type, value: Any) -> Callable[[Any], tuple[Any, ...]]:
        """How a type is written. Raises `UnknownNodeError` if that would not be all of it."""
        visit = self._visit
        if isinstance(value, tvm_ffi.Array):
            return lambda array: ("[", *[visit(item) for item in array])  # no map(): it would nest on the C stack
        if isinstance(value, tvm_ffi.Map):
            return lambda map_: ("{", *sorted([(visit(name), visit(item)) for name, item in map_.items()], key=repr))
        if isinstance(value, tvm_ffi.Tensor):
            return _constant
        if isinstance(value, tvm_ffi.Shape):
            return lambda shape: ("shape", *map(int, shape))
        info = core._type_cls_to_type_info(kind)  # noqa: SLF001 - what there is
        if info is None or info.type_key is None or not info.type_key.startswith(FAMILIES):
            raise UnknownNodeError(f"a {info.type_key if info else kind}")
        key, fields = info.type_key, _fields(info)
        if key in KNOWN_FIELDS:
            fields = [field for field in fields if field.name in KNOWN_FIELDS[key]]
        else:
            _require_all(info, fields)
        note = self._note(key, fields)
        getters = tuple(field.getter for field in fields if field.name not in LEFT_OUT)
        if key in WITH_IDENTITY:
            return lambda node: (key, self._identity(), *[visit(get(node)) for get in getters])
        if key.endswith(".Ramp"):
            return lambda node: (key, self._weigh(node), *[visit(get(node)) for get in getters])
        if note is not None:
            return lambda node: (key, note(node), *[visit(get(node)) for get in getters])
        return lambda node: (key, *[visit(get(node)) for get in getters])

    def _note(self, key: str, fields: list[Any]) -> Callable[[Any], None] | None:
        """How a node of this type names functions, if it may: texts elsewhere (messages, buffers) are no names."""
        names = self._names_of.get(key.rpartition(".")[2])
        field = next((each for each in fields if names is not None and each.name == names), None)
        if field is None:
            return None

        def note(node: Any) -> None:
            found = field.getter(node)
            for each in found if isinstance(found, tvm_ffi.Array) else (found,):
                text = getattr(each, "value", each)  # an argument that is a text
                if isinstance(text, str):
                    self._names.add(str(text))

        return note

    def _weigh(self, ramp: Any) -> None:
        lanes, stride = (getattr(value := getattr(ramp, name, 1), "value", value) for name in ("lanes", "stride"))
        if isinstance(lanes, int) and stride != 1:
            self._strided += lanes * lanes

    def _identity(self) -> int:
        self._identities += 1
        return self._identities


def _plain(value: Any) -> tuple[str, Any]:
    if isinstance(value, bytes | bytearray):
        return "b", bytes(value)
    if isinstance(value, tvm_ffi.dtype):
        return "d", str(value)
    if isinstance(value, tvm_ffi.Device):
        return "v", str(value)
    raise UnknownNodeError(f"a {type(value).__module__}.{type(value).__qualname__}")


def _constant(value: Any) -> tuple[str, str, tuple[int, ...], str]:
    """A tensor, by the digest of its content."""
    try:
        data = value.numpy().tobytes()
    except Exception as error:
        raise UnknownNodeError(f"a constant that can't be read: {error}") from error
    return "tensor", str(value.dtype), tuple(map(int, value.shape)), hashlib.sha256(data).hexdigest()


def _fields(info: Any) -> list[Any]:
    found: list[Any] = []
    while info is not None:
        found += info.fields
        info = info.parent_type_info
    return sorted(found, key=lambda field: field.offset)


def _require_all(info: Any, fields: list[Any]) -> None:
    """Every byte of the type must be a field's, or fill up to the next field's alignment."""
    reached = HEADER_BYTES
    for field in fields:
        if field.offset - reached >= max(1, field.alignment):
            raise UnknownNodeError(f"a {info.type_key}, with {field.offset - reached} bytes before {field.name!r}")
        reached = max(reached, field.offset + field.size)
    if not 0 <= (info.total_size or 0) - reached < POINTER_BYTES:
        raise UnknownNodeError(f"a {info.type_key}, with bytes behind its last field")
