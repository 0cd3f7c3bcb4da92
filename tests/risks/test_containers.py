"""Risk: in containers, a client and its daemon see different files, pids and interpreters, and nobody says so.

The set-up is that of ``examples/containers``: one image, two volumes (the cache, the runtime folder), one daemon.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from harness import containers
from harness.containers import Container
from harness.daemons import ASK, PREAMBLE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness.daemons import Place
    from harness.doubles import Double

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def setting(place: Place, double: Double) -> Iterator[Callable[..., Container]]:
    """Makes containers of the image; ``volumes`` replace the usual ones."""
    containers.require()
    volume, models = place.folder("volume"), place.folder("models")
    made: list[Container] = []

    def make(volumes: dict[str, Path] | None = None, **variables: str) -> Container:
        usual = {"/cache": place.cache, "/run/mlc": volume, "ro:/models": models}
        env = {
            **double.environment(),
            "MLC_LLM_HOME": "/cache",
            "MLC_JITD_RUNTIME_DIR": "/run/mlc/jitd",
            "HOME": "/tmp",
        }
        env |= {"MLC_JITD_CGROUP": "off", "MLC_DOUBLE_LOG": "/cache/double.log", **variables}
        made.append(Container(place.root / f"root-{len(made)}", usual if volumes is None else volumes, env))
        return made[-1]

    yield make
    place.end_daemons()


@pytest.fixture
def serving(setting: Callable[..., Container], place: Place) -> Iterator[Container]:
    """A container in which a daemon serves."""
    container, log = setting(), place.root / "daemon.log"
    process = container.start(sys.executable, "-P", "-m", "mlc_jitd", "run", log=log)
    until(lambda: b" serves " in log.read_bytes() or process.poll() is not None, what="the daemon")
    assert process.poll() is None, log.read_text()
    yield container
    place.end_daemons()
    process.wait(40)


def model(place: Place, double: Double, name: str) -> str:
    """A model folder of the volume; its path inside."""
    (place.root / "models" / name).mkdir()
    config = double.module.config(None, vocab_size=sum(map(ord, name)))
    (place.root / "models" / name / "mlc-chat-config.json").write_bytes(config)
    return f"/models/{name}"


def asked(container: Container, path: str) -> tuple[dict[str, Any], str]:
    """What `jit()` in a container answers, and what it logged."""
    code = f"import logging; logging.basicConfig()\n{PREAMBLE}{ASK}"
    done = container.run(sys.executable, "-P", "-c", code, json.dumps({"ask": [path, {}, "cpu"]}), limit=30)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_containers_of_one_image_share_a_daemon_a_cache_and_each_compile(
    serving: Container, setting: Callable[..., Container], place: Place, double: Double
) -> None:
    path = model(place, double, "one")
    first, second = setting(), setting()
    answer, said = asked(first, path)
    assert answer["result"].startswith("/cache/model_lib/"), answer
    assert "without a daemon" not in said
    assert asked(second, path)[0]["result"] == answer["result"]
    assert len(place.artifacts()) == 1
    status = json.loads(second.run(sys.executable, "-P", "-m", "mlc_jit", "status", "--json").stdout)
    assert (status["pid"], status["counters"]["compiles"], status["counters"]["hits"]) == (1, 1, 1)
    running = [pid for pid in place.daemons() if psutil.Process(pid).name() != "unshare"]
    assert len(running) == 1, "nobody started another"


def test_a_client_may_have_the_cache_read_only(
    serving: Container, setting: Callable[..., Container], place: Place, double: Double
) -> None:
    """The daemon alone writes: what serves can't swap a library that others load."""
    volumes = {"ro:/cache": place.cache, "/run/mlc": place.root / "volume", "ro:/models": place.root / "models"}
    reader = setting(volumes)
    path = model(place, double, "read")
    miss, said = asked(reader, path)
    assert miss["result"].startswith("/cache/model_lib/"), miss
    assert "without a daemon" not in said
    assert asked(reader, path)[0]["result"] == miss["result"]
    assert reader.run("touch", "/cache/model_lib/x").returncode != 0


def test_a_client_whose_cache_is_mounted_elsewhere_is_given_its_own_path(
    serving: Container, setting: Callable[..., Container], place: Place, double: Double
) -> None:
    volumes = {"/elsewhere": place.cache, "/run/mlc": place.root / "volume", "ro:/models": place.root / "models"}
    answer, said = asked(setting(volumes, MLC_LLM_HOME="/elsewhere"), model(place, double, "moved"))
    assert answer["result"].startswith("/elsewhere/model_lib/"), answer
    assert "without a daemon" not in said


def test_a_client_that_can_not_see_the_library_is_told_which_mount_is_missing(
    serving: Container, setting: Callable[..., Container], place: Place, double: Double
) -> None:
    path = model(place, double, "unseen")
    (socket,) = (place.root / "volume" / "jitd").glob("*.sock")
    volumes = {"/run/mlc": place.root / "volume", "ro:/models": place.root / "models"}
    variables = {"MLC_LLM_HOME": "/tmp/mine", "MLC_JITD_SOCKET": f"/run/mlc/jitd/{socket.name}"}
    variables["MLC_DOUBLE_LOG"] = "/tmp/double.log"
    answer, said = asked(setting(volumes, **variables), path)
    assert answer["result"].startswith("/tmp/mine/model_lib/"), "it made the library in the home that it sees"
    assert "going on without a daemon" in said
    assert "can't be seen from this process" in said
    assert "Mount /cache, which is the daemon's cache home" in said
    refused, _ = asked(setting(volumes, **variables, MLC_JITD="require"), path)
    assert (refused["error"], refused["reason"]) == ("StoreError", "unseen")
    assert "Mount /cache," in refused["text"]


def test_a_lease_of_a_process_in_another_pid_namespace_keeps_its_library(
    serving: Container, setting: Callable[..., Container], place: Place, double: Double
) -> None:
    path = model(place, double, "leased")
    client = setting()
    code = f"{PREAMBLE}\nprint(jit(given['model'], {{}}, 'cpu').model_lib_path, flush=True)\ntime.sleep(3600)"
    process = client.start(sys.executable, "-P", "-c", code, json.dumps({"model": path}))
    assert process.stdout is not None
    library = process.stdout.readline().strip()
    collect = ("gc", "--max-size", "1", "--grace-seconds", "0", "--json")
    kept = json.loads(setting().run(sys.executable, "-P", "-m", "mlc_jit", *collect).stdout)
    process.kill()
    process.communicate()
    assert [each.name for each in place.artifacts()] == [library.rpartition("/")[2]], kept
    assert "pid namespace" in json.dumps(kept)
