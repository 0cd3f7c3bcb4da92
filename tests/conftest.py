"""The house in which every test runs: a place of its own, and a look afterwards at what it left behind.

No test sees the developer's home, cache, runtime folder, socket or ``MLC_*`` variables (those that begin with
``MLC_JITD_TEST_``, and ``MLC_JITD_SHARED``, are the tests' own switches). After each test no process, thread,
descriptor or socket file of it may be left; see ``harness/leftovers.py``.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import daemons
from harness.daemons import Clients, Daemon, Place
from harness.doubles import Double
from harness.leftovers import MARK, Scene

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping

# How long an example takes is the host's business: each test has its own limit.
hypothesis.settings.register_profile(
    "here", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], database=None
)
# CI tries the same examples each time: it tells whether a change is sound. Looking for new ones is a developer's run.
hypothesis.settings.register_profile("ci", hypothesis.settings.get_profile("here"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")

SWITCHES = ("MLC_JITD_TEST_", "MLC_JITD_SHARED")
LEAKING = ("MLC_", "XDG_", "FLASHINFER_", "NOTIFY_SOCKET", "LISTEN_", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A job in a shell's background ignores SIGINT, and so would every process that its tests start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a short path, for the places of all tests."""
    tmp_path_factory.getbasetemp()  # while TMPDIR is still the developer's
    with tempfile.TemporaryDirectory(prefix="mj", dir="/tmp") as folder:
        Path(folder).chmod(0o755)  # some tests run a client as another user
        yield Path(folder)


@pytest.fixture(autouse=True)
def place(short: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Place]:
    """The test's place; every variable that says where things are leads there."""
    root = short / str(sum(1 for _ in short.iterdir()))
    for name in ("home", "c", "r", "tmp", "run"):
        (root / name).mkdir(mode=0o755 if name in ("c", "tmp") else 0o700, parents=True)
    for name in list(os.environ):
        if name.startswith(LEAKING) and not name.startswith(SWITCHES):
            monkeypatch.delenv(name)
    (root / "config.toml").touch()
    for name, value in {
        MARK: root.as_posix(),
        "HOME": root / "home",
        "MLC_LLM_HOME": root / "c",
        "MLC_JITD_RUNTIME_DIR": root / "r",
        "MLC_JITD_CONFIG": root / "config.toml",
        "MLC_JITD_SYSTEM": "off",  # whatever this host has
        "MLC_JITD_CGROUP": "off",  # beside other tests a compile with a low weight takes as long as they do
        "TMPDIR": root / "tmp",
        "XDG_CACHE_HOME": root / "home/.cache",
        "XDG_CONFIG_HOME": root / "home/.config",
        "XDG_DATA_HOME": root / "home/.local/share",
        "XDG_STATE_HOME": root / "home/.local/state",
        "XDG_RUNTIME_DIR": root / "run",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(tempfile, "tempdir", None)
    scene = Scene.now(root.as_posix(), root)
    found = Place(root, root / "config.toml", root / "home", root / "c", root / "r", root / "tmp", scene)
    yield found
    _end_client()
    left = scene.leftovers()
    if not found.stale_sockets:
        left += [f"socket file {path.name}" for path in found.runtime.glob("*.sock")]
    scene.kill()
    if getattr(request.node, "failed", False):
        for log in (*found.runtime.glob("*.log"), *root.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-8000:]}")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(exist_ok=True)  # its number is taken
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Let fixtures know that their test failed."""
    report = yield
    if report.failed:
        item.failed = True  # type: ignore[attr-defined]
    return report


def _end_client() -> None:
    """What the client keeps for the life of a process: its connection and ZeroMQ's context."""
    wire: Any = sys.modules.get("mlc_jit.channel")
    if wire is not None and wire._shared is not None:
        wire.forget()
        wire._shared[1].destroy(linger=0)
        wire._shared = None
    fallback: Any = sys.modules.get("mlc_jit.fallback")
    if fallback is not None:
        fallback._warned = False


@pytest.fixture
def ended(place: Place) -> Iterator[None]:
    """Daemons of the test, autostarted ones too, end with it; compilers that outlive theirs are found by ``place``."""
    yield
    place.end_daemons()


@pytest.fixture
def start_daemon(place: Place, ended: None) -> Iterator[Callable[..., Daemon]]:
    """Starts ``mlc-jitd run`` as a process of its own and waits until it is ready; keywords are variables for it."""
    started: list[Daemon] = []

    def start(constants: Mapping[str, float] | None = None, **variables: str) -> Daemon:
        started.append(daemons.start_daemon(place.root / "daemon.log", constants, **variables))
        return started[-1]

    yield start
    place.end_daemons()
    for each in started:
        each.process.wait(40)


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    """A running daemon with default settings."""
    return start_daemon()


@pytest.fixture
def double(place: Place, monkeypatch: pytest.MonkeyPatch) -> Double:
    """The compiler's double, in place for clients of this environment, this process included."""
    found = Double(place.folder("d"))
    for name, value in found.environment(MARK).items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def model(place: Place) -> Callable[..., Path]:
    """Makes a model folder with a small config; keywords are its fields, ``None`` leaves one out."""
    tiny = Double(place.folder("m"))

    def make(name: str = "tiny", /, **fields: Any) -> Path:
        return tiny.model(name, **fields)

    return make


@pytest.fixture
def client(place: Place, ended: None) -> Iterator[Clients]:
    """Starts clients as processes of their own."""
    found = Clients(place)
    yield found
    found.end()


@pytest.fixture
def mlc_jit(ended: None) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``mlc-jit`` to its end."""
    return daemons.command
