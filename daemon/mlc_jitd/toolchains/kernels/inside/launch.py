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
    from types import ModuleType

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
        why = selfcheck.mismatch()
        if not why:
            try:
                from mlc_jitd_kernels import cuda, hook

                settings = hook.Settings(given.store, given.new, given.identity, given.workers, given.device_identity)
                hook.install(settings, report)
                cuda.install(settings, report)
            except Exception:  # noqa: BLE001 - never worse than without
                traceback.print_exc()
                report.failures += 1
                why = "it can't be taken over, see above"
        if why:
            report.plain(why)
            report.write(given.new)
        else:
            _speed_up_parser(selfcheck)
    finally:
        sys.path.remove(HERE)


def _speed_up_parser(selfcheck: ModuleType) -> None:
    """TVM's script parser, where it is a known one."""
    from mlc_jitd_kernels.report import line

    why = selfcheck.mismatch(selfcheck.PARSER)
    if not why:
        try:
            from mlc_jitd_kernels import parsing

            parsing.install()
        except Exception as error:  # noqa: BLE001 - never worse than without
            why = f"{type(error).__name__}: {error}"
    if why:
        line(f"scripts are parsed TVM's own way: {why}")


if __name__ == "__main__":
    main()
