"""Risk: programs that never heard of mlc_jit do without the daemon, or with another key, or break by its hook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.daemons import alive, until
from mlc_jit import jit, variables
from mlc_jit.cli import exec_

if TYPE_CHECKING:
    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

ENGINE = "from mlc_llm.serve.engine_base import process_model_args\n"
PACKAGE = "from mlc_llm.interface import package\n"
ASK = """
lib, overrides = process_model_args(given["model"], "cpu")
print(json.dumps([lib, overrides]))
"""
PACK = """
print(json.dumps(package.build(given["model"], "android", {"max_batch_size": 2}, None)))
"""
PLAIN = """
import json, sys
from mlc_llm.serve.engine_base import process_model_args
print(json.dumps([process_model_args(sys.argv[1], "cpu")[0], sorted(sys.path), "sitecustomize" in sys.modules]))
"""


def run(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """``mlc-jit exec`` with what comes behind it."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "mlc_jit", "exec", *map(os.fspath, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=40,
        env={**os.environ, **variables},
    )


def said(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- install() ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [f"mlc_jit.install()\n{ENGINE}", f"{ENGINE}mlc_jit.install()\n"])
def test_the_engines_call_goes_through_the_daemon(order: str, daemon: Daemon, double: Double, client: Clients) -> None:
    model = double.model()
    lib, overrides = client.code(order + ASK, model=model).answer()
    assert Path(lib).is_file()
    assert jit(model, {"prefill_chunk_size": 64}, "cpu").model_lib_path == lib
    assert len(double.starts()) == 1
    assert "opt" in overrides, "the caller's own dict is as it was"


@pytest.mark.parametrize("order", [f"mlc_jit.install()\n{PACKAGE}", f"{PACKAGE}mlc_jit.install()\n"])
def test_the_packagers_call_goes_through_the_daemon(
    order: str, daemon: Daemon, double: Double, client: Clients
) -> None:
    path, prefix = client.code(order + PACK, model=double.model()).answer()
    assert path.endswith(".tar")
    assert Path(path).is_file()
    assert prefix.startswith("llama_")
    assert len(double.starts()) == 1


def test_upstreams_callers_get_the_errors_that_they_know(daemon: Daemon, double: Double, client: Clients) -> None:
    told = """
import mlc_llm.interface.jit as module
mlc_jit.install()
def kind(model):
    try:
        module.jit(__import__("pathlib").Path(model), {}, "cpu")
    except Exception as error:
        return [isinstance(error, each) for each in (RuntimeError, FileNotFoundError)]
print(json.dumps([kind(given["bad"]), kind(given["nowhere"])]))
"""
    bad = double.model("bad", told={"exit": 1})
    found = client.code(told, bad=bad, nowhere=double.folder / "nowhere").answer()
    assert found == [[True, False], [True, True]]


# --- exec -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(place: Place) -> Path:
    path = place.root / "program.py"
    path.write_text(PLAIN)
    return path


def test_a_program_under_exec_has_the_keys_that_it_has_without(daemon: Daemon, double: Double, program: Path) -> None:
    model = double.model()
    ours = jit(model, {"prefill_chunk_size": 64}, "cpu").model_lib_path
    probes = len(double.resolutions())
    path, search, _ = said(run("--", sys.executable, program, model))
    assert path == ours
    assert len(double.starts()) == 1
    assert len(double.resolutions()) == probes, "not even looked at anew"
    assert os.fspath(exec_.STARTUP) not in search


def test_what_it_starts_uses_the_daemon_too(daemon: Daemon, double: Double, program: Path, place: Place) -> None:
    parent = place.root / "parent.py"
    parent.write_text("import subprocess, sys\nsys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))\n")
    path, _, _ = said(run("--", sys.executable, parent, program, double.model()))
    assert Path(path).is_file()


def test_it_starts_the_daemon_and_leaves_nothing_of_its_hook_in_it(
    double: Double, program: Path, place: Place, ended: None
) -> None:
    path, _, _ = said(run("--", sys.executable, program, double.model()))
    assert Path(path).is_file()
    (daemon,) = place.daemons()
    environ = Path(f"/proc/{daemon}/environ")
    if environ.exists():
        assert b"mlc_jit/startup" not in environ.read_bytes()


def test_the_site_customisation_that_was_there_is_still_imported(
    daemon: Daemon, double: Double, program: Path, place: Place
) -> None:
    folder = place.folder("site")
    (folder / "sitecustomize.py").write_text("import sys\nsys.path.append('/the/site/was/here')\n")
    search = os.pathsep.join((os.fspath(folder), os.environ["PYTHONPATH"]))
    model = double.model()
    plain = subprocess.run(
        [sys.executable, program, model], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": search},
    )  # fmt: skip
    path, found, has_one = said(run("--", sys.executable, program, model, PYTHONPATH=search))
    assert Path(path).is_file()
    assert has_one
    assert "/the/site/was/here" in found
    assert found == json.loads(plain.stdout)[1]


def test_a_broken_site_customisation_is_reported_by_python_as_ever(
    daemon: Daemon, double: Double, program: Path, place: Place
) -> None:
    folder = place.folder("site")
    (folder / "sitecustomize.py").write_text("raise ValueError('a broken site')\n")
    search = os.pathsep.join((os.fspath(folder), os.environ["PYTHONPATH"]))
    done = run("--", sys.executable, program, double.model(), PYTHONPATH=search)
    assert "a broken site" in done.stderr
    assert Path(said(done)[0]).is_file(), "and the hook works all the same"


def test_without_a_daemon_it_goes_on_and_with_require_it_fails(
    double: Double, program: Path, place: Place, ended: None
) -> None:
    nowhere = {"MLC_JITD_SOCKET": str(place.root / ("x" * 110))}
    model = double.model()
    assert Path(said(run("--", sys.executable, program, model, **nowhere))[0]).is_file()
    done = run("--require", "--", sys.executable, program, model, **nowhere)
    assert done.returncode == 1
    assert "AccessRefusedError" in done.stderr
    assert "MLC_JITD_SOCKET" in done.stderr
    assert len(double.starts()) == 1


def test_an_interpreter_without_mlc_jit_says_so_only_when_it_matters(
    double: Double, program: Path, place: Place
) -> None:
    (place.folder("blind") / "mlc_jit.py").write_text("raise ImportError('not here')\n")
    search = os.pathsep.join((os.fspath(place.root / "blind"), os.environ["PYTHONPATH"]))
    idle = subprocess.run(
        [sys.executable, "-c", "print('fine')"], capture_output=True, text=True, check=True,
        env=exec_.environment({**os.environ, "PYTHONPATH": search}),
    )  # fmt: skip
    assert (idle.stdout, idle.stderr) == ("fine\n", "")
    for require in (False, True):
        done = subprocess.run(
            [sys.executable, program, double.model()], capture_output=True, text=True, check=False,
            env=exec_.environment({**os.environ, "PYTHONPATH": search}, require=require),
        )  # fmt: skip
        assert "pip install mlc-jitd" in done.stderr
        assert (done.returncode != 0) == require
        assert require or "upstream's" in done.stdout


def test_switched_off_nothing_is_hooked(double: Double, program: Path) -> None:
    assert said(run("--", sys.executable, program, double.model(), MLC_JITD="off"))[0].startswith("upstream's")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "no program"),
        (("--",), 2, "no program"),
        (("--", "no-such-program"), 127, "no-such-program can't be run"),
        (("--", "/dev/null"), 126, "/dev/null can't be run"),
        (("--", sys.executable, "-c", "raise SystemExit(5)"), 5, ""),
        (("--", sys.executable, "-c", "import sys; sys.exit(sys.argv[1:] != ['--', '--require', 'a b'])", "--",
          "--require", "a b"), 0, ""),
    ],
)  # fmt: skip
def test_the_program_is_run_as_it_was_written(words: tuple[str, ...], code: int, says: str) -> None:
    done = run(*words)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_the_program_takes_the_place_of_the_command() -> None:
    command = [sys.executable, "-m", "mlc_jit", "exec", "--", sys.executable, "-c", "import os; print(os.getpid())"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=40)
    assert int(out) == process.pid
    until(lambda: not alive(process.pid))


def test_the_hook_is_no_part_of_what_a_request_says() -> None:
    plain = {"PYTHONPATH": "/a:/b", "PATH": "/bin"}
    assert variables.collect(exec_.environment(plain)) == variables.collect(plain)
    assert variables.collect(exec_.environment({"PATH": "/bin"})) == {"PATH": "/bin"}
    assert exec_.environment(exec_.environment(plain)) == exec_.environment(plain)
