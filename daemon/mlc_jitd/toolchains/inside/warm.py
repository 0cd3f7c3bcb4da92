"""A warm compiler: imports one once, then forks a process for each job. Run by the toolchain's interpreter.

    python -P warm.py --import MODULE ... --path FOLDER ... --supervisor FOLDER --channel FD

On the channel, a Unix socket, it says that it is ready; then each message it gets is ``fork`` with two pipes: the
control and report ends of a supervisor. What is forked *is* that supervisor (``mlc_jitd/build/supervisor``: the same
code as for a plain command, found by its path), and the compiler runs in its child. So a warm job has its own
session, tree, limits, log and outcome, and nothing of a job is kept here.

It forks only while it has one native thread and no GPU open; else it says why not. It ends when the channel does.
What does not belong here: limits, logs, outcomes, and what a job means.

Not guaranteed: that a library's exit handlers run at the end of a job (`os._exit` ends it, as for every forked child).
"""

# ruff: noqa: PTH115, PTH123, PTH208 - plain calls: a module less to hold in a process that is forked
from __future__ import annotations

import argparse
import builtins
import contextlib
import ctypes
import gc
import importlib
import importlib.util
import inspect
import io
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from types import CodeType, TracebackType

GPUS = ("/dev/nvidia", "/dev/kfd", "/dev/dri")
MARKER = "MLC_JITD_JOB"
NAMELESS = {
    "<ast>": "ast",  # what TVM compiles from a syntax tree
    "<frozen importlib._bootstrap>": "_frozen_importlib",
    "<frozen importlib._bootstrap_external>": "_frozen_importlib_external",
    "<frozen runpy>": "runpy",
}
KEPT = ("LC_CTYPE",)
"""What an interpreter sets for itself at its start, where the locale is C."""


def unfit() -> str:
    """Why this process must not be forked, empty if it may be."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        return f"{threads} native threads"
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if target.startswith(GPUS):
                return f"{target} is open"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:  # a Python, a kernel or a container without it
        return f"no pidfd_open: {error}"
    if sys.getfilesystemencoding() != "utf-8":
        return f"file names are {sys.getfilesystemencoding()}"
    return ""


def descriptors() -> set[int]:
    """Those that are open."""
    listed = {int(fd) for fd in os.listdir("/proc/self/fd")}
    return {fd for fd in listed if _is_open(fd)}  # the listing's own is gone


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def main() -> None:
    """Import, then serve until the channel ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--import", dest="modules", action="append", default=[])
    parser.add_argument("--path", action="append", default=[])
    parser.add_argument("--supervisor", required=True)
    parser.add_argument("--channel", type=int, required=True)
    given = parser.parse_args()
    sys.path[:0] = given.path
    _name_frames()
    began = time.monotonic()
    for module in given.modules:
        importlib.import_module(module)
    loop = _supervisor_loop(given.supervisor)
    _remember_modules()
    gc.collect()
    gc.freeze()
    channel = socket.socket(fileno=given.channel)
    channel.set_inheritable(False)
    keep = descriptors() - {given.channel}
    # An early look: a compiler that starts threads at import is better known before somebody waits for it.
    channel.send(json.dumps({"pid": os.getpid(), "seconds": time.monotonic() - began, "unfit": unfit()}).encode())
    Zygote(channel, loop, keep).serve()


def _supervisor_loop(folder: str) -> Any:
    """``supervisor.loop``, under a name that hides nothing."""
    name = "_mlc_jitd_supervisor"
    spec = importlib.util.spec_from_file_location(name, f"{folder}/__init__.py", submodule_search_locations=[folder])
    sys.modules[name] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{name}.loop")


def _name_frames() -> None:
    """Have `inspect` find the module of each frame at once, those of the import system too.

    TVM's script parser asks for the whole stack at each kernel, and for a frame whose file belongs to no module
    `inspect` goes through all modules, each time. Kernels are defined while modules are imported: such frames are many.
    """
    for name, module in NAMELESS.items():
        inspect.modulesbyfile[name] = module


def _remember_modules() -> None:
    """The same for the frames of modules that are imported now, and for those of this file, no job's ``__main__``."""
    sys.modules["_mlc_jitd_warm"] = sys.modules["__main__"]
    inspect.getmodule(_remember_modules.__code__)


class Zygote:
    """Serves the channel.

    Args:
        channel: To the daemon.
        loop: The supervisor's code.
        keep: Descriptors that importing opened; a job gets these and its output.
    """

    def __init__(self, channel: socket.socket, loop: Any, keep: set[int]) -> None:
        self._channel = channel
        self._loop = loop
        self._keep = keep
        self._children: dict[int, int] = {}  # pidfd -> pid
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)

    def serve(self) -> None:
        """Until the daemon closes the channel."""
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._channel.fileno():
                    self._reap(fd)
                elif not self._answer():
                    return

    def _reap(self, fd: int) -> None:
        self._poll.unregister(fd)
        os.close(fd)
        os.waitpid(self._children.pop(fd), 0)

    def _answer(self) -> bool:
        data, pipes, _, _ = socket.recv_fds(self._channel, 64, 2)
        if not data:
            return False
        reason = unfit()
        try:
            if reason:
                self._channel.send(json.dumps({"unfit": reason}).encode())
            else:
                self._fork(*pipes)
        finally:
            for fd in pipes:
                os.close(fd)
        return True

    def _fork(self, control: int, report: int) -> None:
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                self._supervise(zygote, control, report)
            finally:
                os._exit(1)
        fd = os.pidfd_open(pid)
        self._children[fd] = pid
        self._poll.register(fd, select.POLLIN)
        socket.send_fds(self._channel, [json.dumps({"forked": pid}).encode()], [fd])

    def _supervise(self, zygote: int, control: int, report: int) -> None:
        """A supervisor like any other, but that its command is a call."""
        os.setsid()
        self._loop.kernel.die_with_parent(signal.SIGKILL)
        if os.getppid() != zygote:
            return
        _close_all_but(self._keep | {control, report})
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("0")
        self._loop.serve(control, report, self._launch)

    def _launch(self, job: Any) -> NoReturn:
        """In the job's own process: put right what exec would have, and run what the command names."""
        status = 1
        try:
            _close_all_but(self._keep | {0, 1, 2})
            _set_environment(job.env, job.id)
            _forget()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            status = run(job.argv)
        finally:
            os._exit(status)


def _close_all_but(keep: set[int]) -> None:
    for fd in descriptors() - keep:
        os.close(fd)


def _set_environment(environment: dict[str, str], job: str) -> None:
    """The job's environment, for Python and C; and the marker where /proc shows it, which only exec would set."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    place = libc.getenv(MARKER.encode())
    if place and len(os.environ.get(MARKER, "")) == len(job):
        ctypes.memmove(place, job.encode("ascii"), len(job))
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    os.environ.clear()
    os.environ.update({**kept, **environment, MARKER: job})


def _forget() -> None:
    """What Python remembers of the parent process."""
    tempfile.tempdir = None
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:  # `random` seeds itself anew in a forked child
        numpy.seed()


def run(argv: list[str]) -> int:
    """Run ``python -P -m MODULE ...`` or ``python -P SCRIPT ...`` in this process, and give its exit status."""
    sys.orig_argv[:] = argv
    try:
        sys.argv[:] = ["-m", *argv[4:]] if argv[2] == "-m" else argv[2:]
        code, main_module = _module(argv[3]) if argv[2] == "-m" else _script(argv[2])
        sys.modules["__main__"] = main_module
        exec(code, main_module.__dict__)  # noqa: S102 - it is what the interpreter does with what it is given
        status = 0
    except SystemExit as exit_:
        status = _status(exit_.code)
    except BaseException as error:  # noqa: BLE001 - printed and told by the status, as the interpreter does
        trace = _theirs(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return status


def _script(path: str) -> tuple[CodeType, ModuleType]:
    """What ``python SCRIPT`` runs, and the module that it runs in."""
    main_module = ModuleType("__main__")
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    vars(main_module).update(__file__=path, __builtins__=builtins, __cached__=None)
    return code, main_module


def _module(name: str) -> tuple[CodeType, ModuleType]:
    """What ``python -m MODULE`` runs. Not `runpy`: its frames have no file, and whoever asks for a stack pays for that.

    Raises:
        ImportError: There is none.
    """
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    code = spec.loader.get_code(spec.name) if spec is not None and hasattr(spec.loader, "get_code") else None
    if spec is None or code is None:
        raise ImportError(f"No module named {name}", name=name)
    main_module = ModuleType("__main__")
    vars(main_module).update(
        __file__=spec.origin,
        __builtins__=builtins,
        __cached__=spec.cached,
        __loader__=spec.loader,
        __package__=spec.parent,
        __spec__=spec,
    )
    sys.argv[0] = spec.origin or name
    return code, main_module


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _theirs(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without this file's frames."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


if __name__ == "__main__":
    main()
