"""Run a compile with its code generation taken over: kernel by kernel, in parallel, known ones reused.

    python -P launch.py --store FOLDER --new FOLDER --identity HEX --workers N -- -m MODULE ...
    python -P launch.py … -- SCRIPT ...

What follows `--` runs as it would have alone. Where this TVM is not a known one, or anything here fails, it runs alone.
"""

from __future__ import annotations

import argparse
import inspect
import runpy
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from mlc_jitd_kernels.apart import Settings
    from mlc_jitd_kernels.report import Report

HERE = str(Path(__file__).resolve().parent)
NAMELESS = {
    "<ast>": "ast",  # what TVM compiles from a syntax tree
    "<frozen importlib._bootstrap>": "_frozen_importlib",
    "<frozen importlib._bootstrap_external>": "_frozen_importlib_external",
    "<frozen runpy>": "runpy",
}


def main() -> None:
    """Take over, then run what was given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--store", required=True, help="folder of known kernels, only read")
    parser.add_argument("--new", required=True, help="folder for new kernels and the report")
    parser.add_argument("--identity", required=True, help="the build of TVM")
    parser.add_argument("--workers", type=int, required=True, help="kernels compiled at a time")
    parser.add_argument("--device-identity", default="", help="the toolchain with its host tools")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    rest = given.rest[1:] if given.rest[:1] == ["--"] else given.rest
    _name_frames()
    try:
        _take_over(given)
    except Exception:  # noqa: BLE001 - never worse than without
        traceback.print_exc()
        print("mlc-jitd kernels: plain: they can't be taken over, see above", file=sys.stderr, flush=True)
    if rest[0] == "-m":
        sys.argv[:] = ["-m", *rest[2:]]
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = rest
        runpy.run_path(rest[0], run_name="__main__")


def _name_frames() -> None:
    """Have `inspect` find the module of each frame of a stack at once: this file's too, soon no ``__main__``.

    TVM's script parser asks for the whole stack at each kernel, and for a frame whose file belongs to no module
    `inspect` goes through all modules, each time.
    """
    sys.modules["_mlc_jitd_launch"] = sys.modules["__main__"]
    inspect.modulesbyfile.update(NAMELESS)


def _take_over(given: argparse.Namespace) -> None:
    sys.path.insert(0, HERE)
    try:
        from mlc_jitd_kernels import selfcheck
        from mlc_jitd_kernels.report import Report

        report = Report()
        why = selfcheck.mismatch() or _stand_in(report, "kernels", lambda: _generate(given, report, selfcheck))
        if why:
            report.plain(why)
        else:
            _stand_in(report, "nvcc", lambda: _ask_nvcc(given, report))
            unknown = selfcheck.mismatch(selfcheck.PARSER) or _stand_in(report, "parser", _parse)
            if unknown:
                line(f"scripts are parsed TVM's own way: {unknown}")
        report.write(given.new)  # whatever ends this process, something of ours was in place
    finally:
        sys.path.remove(HERE)


def _stand_in(report: Report, what: str, install: Callable[[], None]) -> str:
    """Put something in its place, and note it; why not, empty if it is there."""
    try:
        install()
    except Exception:  # noqa: BLE001 - never worse than without
        traceback.print_exc()
        report.failures += 1
        return "it can't be taken over, see above"
    report.taken.append(what)
    return ""


def _generate(given: argparse.Namespace, report: Report, selfcheck: ModuleType) -> None:
    from mlc_jitd_kernels import hook

    unknown = selfcheck.mismatch(selfcheck.LOWERING)
    if unknown:
        line(f"kernels are lowered by one process: {unknown}")
    hook.install(_settings(given), report, lower=not unknown)


def _ask_nvcc(given: argparse.Namespace, report: Report) -> None:
    from mlc_jitd_kernels import cuda

    cuda.install(_settings(given), report)


def _parse() -> None:
    from mlc_jitd_kernels import parsing

    parsing.install()


def _settings(given: argparse.Namespace) -> Settings:
    from mlc_jitd_kernels.apart import Settings

    return Settings(given.store, given.new, given.identity, given.workers, given.device_identity)


def line(text: str) -> None:
    """One line of the log."""
    from mlc_jitd_kernels import report

    report.line(text)


if __name__ == "__main__":
    main()
