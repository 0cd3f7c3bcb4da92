"""What compilers an interpreter has, without importing them: run by that interpreter, prints one JSON object.

``python -P probe.py`` with the client's variables. For each package of interest: version, origin and a digest of its
build that does not depend on where it lies; and the stat of every path that proves the answer, taken before the file
was read. The daemon imports this module too, for the same notion of a stamp. What does not belong here: anything but
the standard library, and any import of what is looked at.
"""

# Paths are texts here: thousands of them, some not decodable, and pathlib would take most of the time.
# ruff: noqa: PTH113, PTH114, PTH116, PTH118, PTH120, PTH123, PTH208
from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import platform
import struct
import sys
import sysconfig
import time
from typing import BinaryIO

PACKAGES = ("mlc_llm", "tvm", "tvm_ffi", "flashinfer", "flashinfer_cubin", "flashinfer_jit_cache", "triton")
READ_SOURCES = ("mlc_llm", "tvm", "tvm_ffi")
"""Packages whose installed sources are digested too, since people patch them in place; others go by metadata."""

STARTUP = ("sitecustomize", "usercustomize")
SKIPPED_FOLDERS = frozenset({"__pycache__", "3rdparty", "include", "src", "licenses", "cmake", "node_modules"})
NATIVE = (".so", ".dylib", ".dll")
SETTLED_SECONDS = 0.05
"""A file younger than this may be written again within one tick of the file system's clock: wait, and look anew."""

# --- stamps ---------------------------------------------------------------------------------------------------------


def stat_of(path: str) -> list[int] | None:
    """Device, inode, size, and times of modification and change; ``None`` for what is not there."""
    try:
        s = os.stat(path)
    except (OSError, ValueError):
        return None
    return [s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns]


def listing(path: str, rule: str) -> list[str] | None:
    """The names in a folder that matter: ``path`` for a folder on ``sys.path``, ``package`` for one of sources."""
    matters = _matters_on_path if rule == "path" else _matters_in_package
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if matters(entry))
    except OSError:
        return None


def _matters_on_path(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    return name.endswith((".pth", ".egg-link")) or name.split(".")[0].split("-")[0] in PACKAGES + STARTUP


def _matters_in_package(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    return name.endswith((".py", *NATIVE)) or (name not in SKIPPED_FOLDERS and "." not in name and entry.is_dir())


class Stamps:
    """Paths and the stat they had before anything of them was read."""

    def __init__(self) -> None:
        self.always: dict[str, tuple[str, list[int] | None, list[str] | None]] = {}
        self.sometimes: dict[str, tuple[str, list[int] | None, list[str] | None]] = {}

    def add(self, path: str, rule: str = "file", *, sometimes: bool = False) -> None:
        """Remember a path; ``sometimes`` marks the many files of installed packages, looked at less often."""
        table = self.sometimes if sometimes else self.always
        if path not in self.always and path not in table:
            stat = stat_of(path)
            table[path] = (rule, stat, listing(path, rule) if rule != "file" else None)

    def newest(self) -> int:
        """The youngest time of modification or change, in nanoseconds."""
        stats = [stat for table in (self.always, self.sometimes) for _, stat, _ in table.values() if stat]
        return max((max(stat[3], stat[4]) for stat in stats), default=0)

    def plain(self) -> dict[str, list[list[object]]]:
        """For JSON: lists of [path, rule, stat, names]."""
        return {
            "always": [[path, *rest] for path, rest in self.always.items()],
            "sometimes": [[path, *rest] for path, rest in self.sometimes.items()],
        }


_ELF64_LITTLE = b"\x7fELF\x02\x01"
_ELF_HEADER, _PROGRAM_HEADER = 64, 56
_PT_NOTE = 4
_NT_GNU_BUILD_ID = 3

# --- digests --------------------------------------------------------------------------------------------------------


def build_id(path: str) -> str:
    """A native library's build: its GNU build id, else the SHA-256 of its bytes; ``unreadable`` if neither."""
    try:
        with open(path, "rb") as file:
            return _gnu_build_id(file) or "sha256:" + _sha256(file)
    except OSError:
        return "unreadable"


def _gnu_build_id(file: BinaryIO) -> str | None:
    file.seek(0)
    head = file.read(_ELF_HEADER)
    if not head.startswith(_ELF64_LITTLE) or len(head) < _ELF_HEADER:
        return None
    offset = struct.unpack_from("<Q", head, 32)[0]
    size, count = struct.unpack_from("<HH", head, 54)
    for index in range(count):
        file.seek(offset + index * size)
        header = file.read(size)
        if len(header) < _PROGRAM_HEADER or struct.unpack_from("<I", header)[0] != _PT_NOTE:
            continue
        start, length = struct.unpack_from("<Q", header, 8)[0], struct.unpack_from("<Q", header, 32)[0]
        file.seek(start)
        found = _note(file.read(min(length, 1 << 16)))
        if found:
            return "build-id:" + found
    return None


def _note(notes: bytes) -> str | None:
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name_at = at + 12
        at = name_at + (name_size + 3) // 4 * 4
        if kind == _NT_GNU_BUILD_ID and notes[name_at : name_at + name_size] == b"GNU\0":
            return notes[at : at + size].hex() or None
        at += (size + 3) // 4 * 4
    return None


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def file_digest(path: str) -> str:
    """SHA-256 of a file's bytes, or ``unreadable``."""
    try:
        with open(path, "rb") as file:
            return _sha256(file)
    except OSError:
        return "unreadable"


def tree_digest(root: str, stamps: Stamps, *, sometimes: bool) -> str:
    """Digest of a package's sources and native modules by relative name and content."""
    lines = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS and "." not in name)
        stamps.add(folder, "package", sometimes=sometimes)
        for name in sorted(files):
            if not name.endswith((".py", *NATIVE)):
                continue
            path = os.path.join(folder, name)
            native = not name.endswith(".py")
            stamps.add(path, sometimes=sometimes and not native)
            lines.append(f"{os.path.relpath(path, root)} {build_id(path) if native else file_digest(path)}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


# --- packages -------------------------------------------------------------------------------------------------------


def origin(name: str) -> str | None:
    """The folder of an importable top-level package, found without running it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or not spec.submodule_search_locations or not spec.origin:
        return None  # absent, a plain module, or a namespace: a leftover folder is no compiler
    return os.path.dirname(spec.origin)


def distribution(name: str, folder: str, stamps: Stamps) -> tuple[str, str, str]:
    """Version, digest and path of the dist-info that owns a package, stamped; empty texts where none does.

    The digest leaves out what differs between installers: the dist-info's own files and compiled bytecode.
    """
    site = os.path.dirname(folder)
    wanted = (name + "/__init__.py,").encode()
    try:
        infos = sorted(entry for entry in os.listdir(site) if entry.endswith(".dist-info"))
    except OSError:
        return "", "", ""
    likely = name.replace("_", "").lower()
    infos.sort(key=lambda info: likely not in info.replace("_", "").lower())  # the likely owner first
    for info in infos:
        place = os.path.join(site, info)
        before = Stamps()
        before.add(place)
        before.add(os.path.join(place, "RECORD"))
        try:
            with open(os.path.join(place, "RECORD"), "rb") as file:
                record = file.read()
        except OSError:
            continue
        if not record.startswith(wanted) and b"\n" + wanted not in record:
            continue
        kept = sorted(
            line
            for line in record.splitlines()
            if b"sha256=" in line and b".dist-info/" not in line and not line.startswith(b"../")
        )
        version = info[: -len(".dist-info")].partition("-")[2]
        stamps.always = {**before.always, **stamps.always}
        return version, hashlib.sha256(b"\n".join(kept)).hexdigest(), place
    return "", "", ""


def source_version(folder: str) -> str:
    """``__version__`` as a checkout's own files state it, read as text; ``sources`` where they do not."""
    for name in ("_version.py", "libinfo.py", "__init__.py"):
        try:
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                tree = ast.parse(file.read())
        except (OSError, SyntaxError, ValueError):
            continue
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                names = {target.id for target in node.targets if isinstance(target, ast.Name)}
                if names & {"__version__", "version"} and isinstance(node.value.value, str):
                    return node.value.value
    return "sources"


def libraries(name: str, folder: str, stamps: Stamps) -> list[str]:
    """The native libraries outside the package's folder that its import may load, in search order."""
    if name == "mlc_llm":
        if os.environ.get("SKIP_LOADING_MLCLLM_SO", "0") != "0":
            return []
        stems, places = ("mlc_llm_module", "mlc_llm"), _mlc_places(folder)
    elif name == "tvm":
        stems = ("tvm", "tvm_compiler", "tvm_runtime", "tvm_runtime_extra", "tvm_runtime_cuda", "tvm_ffi")
        places = _tvm_places(folder)
    else:
        return []
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    found = []
    for place in places:
        for stem in stems:
            path = os.path.join(place, "lib" + stem + suffix)
            if os.path.isfile(path):
                stamps.add(path)
                found.append(f"lib{stem} {build_id(path)}")
    return found


def _mlc_places(folder: str) -> list[str]:
    top = os.path.dirname(os.path.dirname(os.path.realpath(folder)))
    places = [os.path.join(top, "build"), os.path.join(top, "build", "Release")]
    places += _listed("MLC_LIBRARY_PATH")
    if os.environ.get("CONDA_PREFIX"):
        places.append(os.path.join(os.environ["CONDA_PREFIX"], "lib"))
    return places + _listed("LD_LIBRARY_PATH") + _listed("DYLD_LIBRARY_PATH")


def _tvm_places(folder: str) -> list[str]:
    top = os.path.dirname(os.path.dirname(folder))
    places = _listed("TVM_LIBRARY_PATH")
    for root in [top, *_listed("TVM_HOME")]:
        places += [os.path.join(root, "build", "lib"), os.path.join(root, "build"), os.path.join(root, "lib")]
    return places + _listed("LD_LIBRARY_PATH") + _listed("DYLD_LIBRARY_PATH")


def _listed(variable: str) -> list[str]:
    return [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry]


def package(name: str, stamps: Stamps) -> dict[str, object] | None:
    """What is known of one package; ``None`` where it can't be imported."""
    folder = origin(name)
    if folder is None:
        return None
    version, record, info = distribution(name, folder, stamps)
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    installed = bool(info) or (os.path.dirname(folder) in places and not os.path.islink(folder))
    parts = []
    if info:
        parts.append("record " + record)
    if not info or name in READ_SOURCES:
        parts.append("tree " + tree_digest(folder, stamps, sometimes=installed))
    parts += libraries(name, folder, stamps)
    stamps.add(os.path.join(folder, "__init__.py"))
    return {
        "version": version or source_version(folder),
        "build": hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        "origin": folder,
        "installed": installed,
    }


def dict_keys(path: str, variable: str) -> list[str] | None:
    """The text keys of a module-level dict literal, read without running the module."""
    try:
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return None
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        else:
            continue
        if any(isinstance(t, ast.Name) and t.id == variable for t in targets) and isinstance(node.value, ast.Dict):
            keys = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
            if len(keys) == len(node.value.keys) and all(isinstance(key, str) for key in keys):
                return keys
    return None


def class_fields(path: str, name: str) -> list[list[str]] | None:
    """Name and annotation of each field of a dataclass, read without running its module."""
    try:
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return None
    found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name][-1:]
    fields = [
        [each.target.id, ast.unparse(each.annotation)]
        for node in found
        for each in node.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    ]
    return fields or None


def look() -> tuple[dict[str, object], Stamps]:
    """The whole answer, and the stamps that prove it."""
    stamps = Stamps()
    for path in {sys.executable, os.path.realpath(sys.executable), os.path.join(sys.prefix, "pyvenv.cfg")}:
        stamps.add(path)
    library = {os.path.realpath(p) for p in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")) if p}
    library |= {os.path.join(p, "lib-dynload") for p in library}
    for place in sys.path:
        if place and os.path.realpath(place) not in library and not place.endswith(".zip"):
            stamps.add(place, "path")
            for name in listing(place, "path") or ():
                if name.endswith((".pth", ".egg-link")):
                    stamps.add(os.path.join(place, name))
    startup = {}
    for name in STARTUP:
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if path:
            stamps.add(path)
            startup[name] = file_digest(path)
    packages = {name: package(name, stamps) for name in PACKAGES}
    compiler = packages["mlc_llm"]
    models = quantizations = overrides = None
    placeholder = False
    if compiler is not None:
        folder = str(compiler["origin"])
        needed = (os.path.join(folder, "__main__.py"), os.path.join(folder, "cli", "compile.py"))
        if all(map(os.path.isfile, needed)):
            models = dict_keys(os.path.join(folder, "model", "model.py"), "MODELS")
            quantizations = dict_keys(os.path.join(folder, "quantization", "quantization.py"), "QUANTIZATION")
            overrides = class_fields(os.path.join(folder, "interface", "compiler_flags.py"), "ModelConfigOverride")
        else:
            placeholder, packages["mlc_llm"] = True, None  # PyPI's empty package of that name
    answer = {
        "executable": sys.executable,
        "python": {
            "version": platform.python_version(),
            "implementation": sys.implementation.cache_tag or sys.implementation.name,
            "platform": f"{sys.platform} {platform.machine()}",
        },
        "packages": packages,
        "placeholder": placeholder,
        "startup": startup,
        "model_types": models,
        "quantizations": quantizations,
        "overrides": overrides,
    }
    return answer, stamps


def main() -> None:
    """Look, and look again while something is being written; then print."""
    for _ in range(10):
        answer, stamps = look()
        age = time.time() - stamps.newest() / 1e9
        if age >= SETTLED_SECONDS or age < -1:  # times in the future never settle
            break
        time.sleep(SETTLED_SECONDS)
    answer["stamps"] = stamps.plain()
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
