"""Compile a Llama-family model for a CPU.

    python -P compile.py --config mlc-chat-config.json --target JSON --output lib.so

Everything goes to stderr: `mlc-jitd stage: <name> <detail>` for each stage, and, where it fails, `mlc-jitd error:
<sentence>` as the last line, with exit status 2 for what was asked and 1 for a compiler that failed. The output appears
complete or not at all.

`main` may also be called in a process that has imported tvm already; it keeps nothing between calls, but
sets TVM_NUM_THREADS where nobody has.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mlc_jitd_tvm import config as configs
from mlc_jitd_tvm import stages
from mlc_jitd_tvm.errors import CompilerError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tvm.relax import VMExecutable
    from tvm.target import Target

SUFFIXES = (".so", ".dylib")
OPT_LEVELS = ("O0", "O1", "O2", "O3")
OPT_FLAGS = ("flashinfer", "cublas_gemm", "faster_transformer", "cudagraph", "cutlass", "ipc_allreduce_strategy")


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as an input error, in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile one model.

    Args:
        argv: the command line without the program's name; None takes `sys.argv`.

    Returns:
        0; 2 where the request is wrong or beyond this toolchain; 1 where the compiler or the linker failed.
    """
    try:
        _run(_arguments(argv))
    except (InputError, CompilerError) as failure:
        stages.error(str(failure))
        return failure.exit_status
    except Exception as failure:  # noqa: BLE001 - TVM raises whatever it likes
        traceback.print_exc()
        lines = str(failure).strip().splitlines()
        stages.error(f"{type(failure).__name__}: {lines[-1] if lines else 'no message'}")
        return CompilerError.exit_status
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="compile.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True, help="mlc-chat-config.json")
    parser.add_argument("--target", required=True, help="a target as JSON, as resolve.py gives it")
    parser.add_argument("--overrides", default="", help="name=value;name=value")
    parser.add_argument("--opt", default="O2", help="O0 to O3, or flags; without effect on a CPU")
    parser.add_argument("--threads", type=int, default=1, help="cores that the compile may use")
    parser.add_argument("--output", type=Path, required=True, help="the library, .so or .dylib")
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    _check_opt(arguments.opt)
    if arguments.threads < 1:
        raise InputError(f"--threads must be 1 or more, not {arguments.threads}")
    if arguments.output.suffix not in SUFFIXES:
        raise InputError(f"--output must end in {' or '.join(SUFFIXES)}, not {arguments.output.name!r}")
    if not arguments.output.absolute().parent.is_dir():
        raise InputError(f"there is no folder {arguments.output.parent} to write {arguments.output.name} to")
    try:
        text = arguments.config.read_bytes()
    except OSError as error:
        raise InputError(f"can't read {arguments.config}: {error.strerror}") from None
    config = configs.parse(text, arguments.overrides)
    for note in config.notes:
        stages.note(note)

    os.environ.setdefault("TVM_NUM_THREADS", str(arguments.threads))
    stages.stage("load", "tvm")
    from mlc_jitd_tvm import pipeline, targets

    target = targets.parse(arguments.target)
    _check_linker(target)
    executable = pipeline.compile_model(config, target)
    size = _export(executable, arguments.output)
    stages.stage("done", f"{size / 1e6:.1f} MB in {time.monotonic() - started:.1f} s")


def _check_opt(opt: str) -> None:
    """Nothing of it reaches a CPU library; a wrong value is told all the same."""
    if opt in OPT_LEVELS:
        return
    for flag in filter(None, opt.split(";")):
        if flag.partition("=")[0] not in OPT_FLAGS or "=" not in flag:
            raise InputError(f"--opt {flag!r} is neither one of {', '.join(OPT_LEVELS)} nor a flag=value")


def _check_linker(target: Target) -> None:
    from mlc_jitd_tvm.targets import architecture
    from tvm.support import cc
    from tvm.target.codegen import llvm_get_system_triple

    if cc.get_cc() is None:
        raise CompilerError("no C++ compiler to link with: install g++ or clang++, or name one in CXX")
    wanted, local = architecture(str(target.attrs["mtriple"])), architecture(str(llvm_get_system_triple()))
    if wanted != local and not (os.environ.get("CXX") or os.environ.get("CC")):
        raise InputError(f"target is {wanted} and this machine {local}: name a cross compiler in CXX to link with")


def _export(executable: VMExecutable, output: Path) -> int:
    """Write the library beside its place, then move it there. Returns its size in bytes."""
    stages.stage("link", output.name)
    part = output.with_name(f".{output.stem}.{os.getpid()}{output.suffix}")
    try:
        executable.export_library(str(part))
        size = part.stat().st_size
        part.replace(output)
    except OSError as error:
        raise CompilerError(f"can't write {output}: {error.strerror}") from None
    except RuntimeError as error:
        raise CompilerError(f"the linker failed: {_linker_says(str(error))}") from error
    finally:
        part.unlink(missing_ok=True)
    return size


def _linker_says(text: str) -> str:
    """The line that matters of "Compilation error:", the linker's output, "Command line: …"."""
    lines = [line for line in text.splitlines() if line and not line.startswith(("Compilation error", "Command line"))]
    return next((line for line in lines if "error" in line), lines[0] if lines else "no message")


if __name__ == "__main__":
    raise SystemExit(main())
