"""``mlc-jitd``: the service's command line. People and scripts use ``mlc-jit``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import faulthandler
import functools
import logging
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

from mlc_jit._version import __version__
from mlc_jit.autostart import ANOTHER_RUNS
from mlc_jit.errors import DaemonUnavailableError, JitError
from mlc_jit.locations import locate
from mlc_jitd import logs, upkeep
from mlc_jitd.config import Settings, gather
from mlc_jitd.sources import flag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_DESCRIPTORS = 65_536


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service; the exit code: 0 stopped, 1 could not start or no library, 3 another daemon runs."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] and given[0] in upkeep.modules():
        logs.set_up(None, level=logging.WARNING)
        return upkeep.main(given[0], given[1:])
    arguments = command_line().parse_args(given)
    if arguments.verb == "once":
        logs.set_up(None, level=logging.WARNING)
        from mlc_jitd import once  # noqa: PLC0415 - each verb loads what is its own

        return once.main()
    if arguments.verb == "worker":
        logs.set_up(None, level=logging.WARNING)
        from mlc_jitd import farmhand  # noqa: PLC0415 - likewise

        return farmhand.main(arguments.url, arguments.jobs, arguments.offer)
    if arguments.verb == "doctor":
        logs.set_up(None, level=logging.ERROR)
        from mlc_jitd import doctor  # noqa: PLC0415 - likewise

        return doctor.main()
    return _run(arguments)


def command_line() -> argparse.ArgumentParser:
    """The whole command line; ``--help``, the man page and the completion scripts all come from it."""
    parser = argparse.ArgumentParser(prog="mlc-jitd", description="The compile-cache daemon for MLC-LLM.")
    parser.add_argument("--version", action="version", version=f"mlc-jitd {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    run = verbs.add_parser("run", help="serve this user's cache home until stopped")
    run.add_argument("--log-file", help="log to this file instead of standard error")
    run.add_argument("--detach", action="store_true", help="go to the background at once")
    run.add_argument("--on-demand", action="store_true", help="end when idle for long: whoever needs it starts it")
    run.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    _add_settings(run)
    verbs.add_parser("once", help="answer one request from standard input without a daemon (for the client library)")
    verbs.add_parser("doctor", help="print what this host has and what is wrong, as JSON (`mlc-jit doctor` shows it)")
    worker = verbs.add_parser("worker", help="compile for others, as a worker of a Dask cluster")
    worker.add_argument("url", metavar="URL", help="the scheduler: dask://host:port")
    worker.add_argument("--jobs", type=int, default=0, help="compiles at a time; 0 for what the cores allow")
    worker.add_argument("--offer", metavar="NAME=N", action="append", default=[], help="also this: cuda-sm_90=1")
    for name in upkeep.modules():
        verbs.add_parser(name, help=f"work on the cache folder; what it says is JSON (`mlc-jit {name}` shows it)")
    return parser


def _add_settings(run: argparse.ArgumentParser) -> None:
    """A flag for each setting."""
    group = run.add_argument_group("settings, which beat variables and files (`mlc-jit config` shows them all)")
    for each in dataclasses.fields(Settings):
        help_ = each.metadata["meaning"].replace("%", "%%")
        text = functools.partial(_checked, each.metadata["kind"].read)
        group.add_argument(flag(each.name), dest=f"setting_{each.name}", metavar="VALUE", help=help_, type=text)


def _checked(read: Callable[[str], Any], text: str) -> str:
    """The text of a setting, if it means something: what is typed is refused, where a slip in a file is passed over."""
    try:
        read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be {error}") from None
    return text


def _flags(arguments: argparse.Namespace) -> dict[str, str]:
    given = {name.removeprefix("setting_"): text for name, text in vars(arguments).items() if name[:8] == "setting_"}
    return {name: text for name, text in given.items() if text is not None}


def _run(arguments: argparse.Namespace) -> int:
    if arguments.detach and os.fork():
        return 0  # before anything is imported that a fork could hurt
    if arguments.detach:
        _forget_the_starter()
    _more_descriptors()
    from mlc_jitd import app, service  # noqa: PLC0415 - `--help` needs no daemon

    logs.set_up(arguments.log_file, level=logging.INFO, form=gather(flags=_flags(arguments)).settings.log_format)
    faulthandler.enable()  # where it hung, when a watchdog ends it

    def say(word: str) -> None:
        """Tell the starter, once, how it went."""
        if arguments.ready_fd is not None:
            with contextlib.suppress(OSError):
                os.write(arguments.ready_fd, f"{word}\n".encode())
            os.close(arguments.ready_fd)
            arguments.ready_fd = None

    try:
        app.run(
            ready=lambda: say("ready"),
            log_path=arguments.log_file or service.journal(),
            flags=_flags(arguments),
            on_demand=arguments.on_demand,
        )
    except JitError as error:
        places = None
        with contextlib.suppress(JitError):
            places = locate()
        app.explain_failure(error, places)
        code = ANOTHER_RUNS if isinstance(error, DaemonUnavailableError) and error.reason == "running" else 1
        say(str(code))
        return code
    return 0


def _forget_the_starter() -> None:
    """A daemon that a client started serves the host, whatever that client was pinned to or chose to ignore."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGPIPE else signal.SIG_DFL)
    os.umask(0o022)
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # the kernel keeps what the control group allows
            os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _more_descriptors() -> None:
    """Every thread that waits costs a connection; the soft limit is often 1,024, the hard one far above."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
