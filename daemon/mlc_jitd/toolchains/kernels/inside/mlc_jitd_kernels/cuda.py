"""nvcc's answers, kept by what it was asked: the source, the whole command line, its build and its variables.

In the place of `subprocess.Popen` in `tvm.support.nvcc`, whatever calls that: TVM's own callback, or mlc_llm's, with
its list of architectures. A command line of another shape than `nvcc … -o RESULT SOURCE`, with an option that is not
known here, or with a source that could include more than nvcc's own headers, is none of ours, and runs.
"""

# ruff: noqa: PTH118, PTH123
from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shlex
import subprocess
import time
from typing import TYPE_CHECKING, Any

from . import objects
from .report import line

if TYPE_CHECKING:
    from .apart import Settings
    from .report import Report

FORMAT = 1
SYMBOL = "cuda"
VARIABLES = ("NVCC_",)
"""Beginnings of the names of what nvcc reads of its own accord."""

FLAGS = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")
FOLDERS = ("CPATH", "CPLUS_INCLUDE_PATH", "C_INCLUDE_PATH")
"""Variables with folders of headers."""

FILE_OF_OPTIONS = re.compile(r"optf|options-file")

KNOWN_WORD = re.compile(
    r"--(fatbin|cubin|ptx)|-O[0-3]|-g|-G|-w|-lineinfo|-std=c\+\+\d\d|-arch(=sm_\w+)?|sm_\w+|-gencode(=arch=[\w,=]+)?"
    r"|arch=[\w,=\[\]]+|--?use_fast_math|-(f|p)[a-z-]+=(true|false)|--expt-[a-z-]+|-Xptxas|--ptxas-options(=[\w=,-]+)?|-[DU]\w+(=\w*)?"
)
"""Words of a command line that name no file but what is in the key."""

JOINED = re.compile(rb"\\\r?\n")
OWN_HEADER = re.compile(rb"^[ \t]*#[ \t]*include[ \t]*<\w[\w-]*(?:/\w[\w-]*)*(?:\.\w+)?>[ \t]*$", re.MULTILINE)
FOREIGN_HEADER = re.compile(rb"include|embed|%:|\?\?=")
"""Lines that bring in a header of nvcc's own; and what else may bring in a file: a path, a quoted name, a macro."""


def install(settings: Settings, report: Report) -> None:
    """Put it in its place, where this TVM has it; what was compiled before stays as it is."""
    module = importlib.import_module("tvm.support.nvcc")
    if getattr(module, "subprocess", None) is subprocess:
        module.subprocess = _Subprocess(settings, report)


class _Subprocess:
    """What `subprocess` is to `tvm.support.nvcc`."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self._settings = settings
        self._report = report

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(self, command: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - it stands for that
        """Run it, or have its answer."""
        asked = _asked(command)
        if asked is None or not self._settings.device_identity:
            return subprocess.Popen(command, *args, **kwargs)
        source, result = asked
        try:
            key = self._key(command, source, result)
        except OSError:
            key = ""
        if not key:
            return subprocess.Popen(command, *args, **kwargs)
        try:
            path = os.path.join(self._settings.store, key[:2], key)
            kernel = objects.read(path, key, (SYMBOL,))
            with open(result, "wb") as file:
                file.write(kernel.data)
        except OSError:
            pass  # it is not known, can't be read, or there is no room for it: nvcc says the rest
        except objects.DamagedKernelError as error:
            self._report.damaged.append(key)
            line(f"{key[:12]} is compiled anew: {error}")
        else:
            self._report.devices_reused.append(key)
            self._report.saved = round(self._report.saved + kernel.seconds, 3)
            self._report.write(self._settings.new)
            line(f"nvcc's answer is known: {key[:12]}")
            return _Known()
        return _Asking(subprocess.Popen(command, *args, **kwargs), lambda seconds: self._keep(key, result, seconds))

    def _key(self, command: list[str], source: str, result: str) -> str:
        """Empty where the source does not say all."""
        with open(source, "rb") as file:
            content = file.read()
        if FOREIGN_HEADER.search(OWN_HEADER.sub(b"", JOINED.sub(b"", content))):
            return ""
        text = hashlib.sha256(content).hexdigest()
        facts = {
            "format": FORMAT,
            "toolchain": self._settings.device_identity,
            "command": ["SOURCE" if word == source else "RESULT" if word == result else word for word in command],
            "source": text,
            "variables": sorted(item for item in os.environ.items() if item[0].startswith(VARIABLES)),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _keep(self, key: str, result: str, seconds: float) -> None:
        folder = os.path.join(self._settings.new, "kernels")
        try:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
            with open(result, "rb") as file:
                kernel = objects.Kernel(key, (SYMBOL,), seconds, file.read())
            if kernel.data:
                objects.write(os.path.join(folder, key), kernel)
                self._report.devices.append(key)
        except OSError as error:
            self._report.unkept += 1
            line(f"{key[:12]} can't be kept: {error}")
        self._report.write(self._settings.new)


def _asked(command: Any) -> tuple[str, str] | None:
    """Source and result of a command line that is nvcc's and has nothing unusual; else None."""
    if not isinstance(command, list) or len(command) < 4 or command[0] != "nvcc":  # noqa: PLR2004
        return None
    if command[-3] != "-o" or any(os.environ.get(name) for name in FOLDERS):
        return None
    words = command[1:-3]
    try:
        words += [word for name in FLAGS for word in shlex.split(os.environ.get(name, ""))]
    except ValueError:
        return None
    if not all(isinstance(word, str) and KNOWN_WORD.fullmatch(word) for word in words) or any(
        FILE_OF_OPTIONS.search(word) for word in words
    ):
        return None
    return command[-1], command[-2]


class _Known:
    """A process that has ended well."""

    returncode = 0

    def communicate(self) -> tuple[bytes, None]:
        """It said nothing."""
        return b"", None


class _Asking:
    """A process whose result is kept when it ends well."""

    def __init__(self, process: Any, keep: Any) -> None:
        self._process = process
        self._keep = keep
        self._began = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._process, name)

    def communicate(self, *args: Any, **kwargs: Any) -> Any:
        """As the process's own."""
        said = self._process.communicate(*args, **kwargs)
        if self._process.returncode == 0:
            self._keep(time.monotonic() - self._began)
        return said
