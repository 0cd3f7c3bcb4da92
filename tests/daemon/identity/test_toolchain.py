"""The toolchain's fingerprint: the build counts, the place does not; and what proves that it still holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.leftovers import alive, until
from mlc_jit.errors import ToolchainNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from mlc_jit.messages import JitRequest
    from mlc_jitd.identity import Identifier


@pytest.fixture
def checkout(double: ModuleType, tmp_path: Path) -> Path:
    return double.install(tmp_path / "checkout")


@pytest.fixture
def at(ask: Callable[..., JitRequest]) -> Callable[[Path], JitRequest]:
    def make(place: Path) -> JitRequest:
        return ask(env={"PYTHONPATH": str(place)})

    return make


def dist_info(site: Path, name: str, version: str, package: str, digest: str = "abc") -> Path:
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (folder / "RECORD").write_text(
        f"{package}/__init__.py,sha256={digest},1\n{name}-{version}.dist-info/INSTALLER,sha256=pip,4\n"
        f"{package}/__pycache__/__init__.cpython-311.pyc,,\n"
    )
    return folder


def test_two_copies_of_one_build_are_one_toolchain(
    identifier: Identifier, double: ModuleType, at: Callable[[Path], JitRequest], tmp_path: Path
) -> None:
    places = [double.install(tmp_path / name) for name in ("one", "another")]
    one, other = (identifier.identify(at(place)) for place in places)
    assert one.key == other.key
    assert one.toolchain.fingerprint == other.toolchain.fingerprint


def test_a_version_bump_is_another_key_and_back_is_the_old_one(
    identifier: Identifier, at: Callable[[Path], JitRequest], checkout: Path
) -> None:
    first = dist_info(checkout, "mlc_llm", "1.0", "mlc_llm")
    old = identifier.identify(at(checkout))
    first.rename(checkout / "mlc_llm-1.1.dist-info")
    assert not identifier.recheck(old)
    new = identifier.identify(at(checkout))
    assert dict(new.toolchain.versions)["mlc_llm"] == "1.1"
    (checkout / "mlc_llm-1.1.dist-info").rename(first)
    back = identifier.identify(at(checkout))
    assert new.key != old.key == back.key


def test_the_installer_does_not_count_but_what_it_installed_does(
    identifier: Identifier, double: ModuleType, at: Callable[[Path], JitRequest], tmp_path: Path
) -> None:
    by_pip, by_uv, other = (double.install(tmp_path / name) for name in ("pip", "uv", "other"))
    dist_info(by_pip, "mlc_llm", "1.0", "mlc_llm")
    record = dist_info(by_uv, "mlc_llm", "1.0", "mlc_llm") / "RECORD"
    record.write_text(record.read_text().replace("sha256=pip", "sha256=uv").replace("cpython-311", "cpython-312"))
    dist_info(other, "mlc_llm", "1.0", "mlc_llm", digest="xyz")
    keys = [identifier.identify(at(place)).key for place in (by_pip, by_uv, other)]
    assert keys[0] == keys[1] != keys[2]


def test_an_edit_in_a_checkout_is_seen_at_once_and_undone_is_the_old_key(
    identifier: Identifier, at: Callable[[Path], JitRequest], checkout: Path
) -> None:
    source = checkout / "mlc_llm" / "interface" / "compiler_flags.py"
    before = source.read_text()
    old = identifier.identify(at(checkout))
    assert identifier.recheck(old)
    source.write_text(before + "\nX = 1\n")
    assert not identifier.recheck(old)
    new = identifier.identify(at(checkout))
    assert new.key != old.key
    assert identifier.recheck(new)
    fingerprints = old.toolchain.fingerprint, new.toolchain.fingerprint
    assert identifier.edits(*fingerprints) == (str(source),)
    assert identifier.edits(*reversed(fingerprints)) is None
    source.write_text(before)
    assert identifier.identify(at(checkout)).key == old.key
    assert identifier.edits(*reversed(fingerprints)) == (str(source),)


@pytest.mark.parametrize("change", ["new file", "deleted", "renamed", "native", "new folder"])
def test_every_kind_of_change_in_a_checkout_is_seen(
    identifier: Identifier, at: Callable[[Path], JitRequest], checkout: Path, change: str
) -> None:
    package = checkout / "mlc_llm"
    old = identifier.identify(at(checkout))
    if change == "new file":
        (package / "interface" / "new.py").write_text("")
    elif change == "deleted":
        (package / "interface" / "compiler_flags.py").unlink()
    elif change == "renamed":
        (package / "libinfo.py").rename(package / "info.py")
    elif change == "native":
        (package / "libextra.so").write_bytes(b"not really")
    else:
        (package / "more").mkdir()
        (package / "more" / "__init__.py").write_text("")
    assert not identifier.recheck(old)


@pytest.mark.parametrize("name", ["__pycache__/x.pyc", "notes.txt", "interface/__pycache__/y.pyc"])
def test_what_is_no_source_disproves_nothing(
    identifier: Identifier, at: Callable[[Path], JitRequest], checkout: Path, name: str
) -> None:
    old = identifier.identify(at(checkout))
    path = checkout / "mlc_llm" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"bytecode")
    (checkout / "a log of somebody").write_text("written beside the packages")
    assert identifier.recheck(old)
    assert identifier.recheck_thoroughly(old)


def test_a_touched_file_keeps_its_key(identifier: Identifier, at: Callable[[Path], JitRequest], checkout: Path) -> None:
    old = identifier.identify(at(checkout))
    os.utime(checkout / "mlc_llm" / "__init__.py", (1, 1))
    assert not identifier.recheck(old)
    assert identifier.identify(at(checkout)).key == old.key


def test_a_package_that_now_comes_first_is_seen(
    identifier: Identifier, double: ModuleType, ask: Callable[..., JitRequest], checkout: Path, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    request = ask(env={"PYTHONPATH": f"{first}:{checkout}"})
    old = identifier.identify(request)
    assert identifier.recheck(old)
    double.install(first)
    (first / "mlc_llm" / "libinfo.py").write_text('__version__ = "2"\n')
    assert not identifier.recheck(old)
    assert identifier.identify(request).key != old.key


def test_a_start_up_module_that_may_patch_the_compiler_counts(
    identifier: Identifier, at: Callable[[Path], JitRequest], checkout: Path
) -> None:
    old = identifier.identify(at(checkout))
    (checkout / "sitecustomize.py").write_text("PATCH = 1\n")
    assert not identifier.recheck(old)
    patched = identifier.identify(at(checkout))
    (checkout / "sitecustomize.py").write_text("PATCH = 2\n")
    assert len({old.key, patched.key, identifier.identify(at(checkout)).key}) == 3


def test_the_sources_of_an_installed_package_are_looked_at_too(
    identifier: Identifier, at: Callable[[Path], JitRequest], checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dist_info(checkout, "mlc_llm", "1.0", "mlc_llm")
    old = identifier.identify(at(checkout))
    assert identifier.recheck(old)
    with (checkout / "mlc_llm" / "interface" / "compiler_flags.py").open("a") as file:
        file.write("# patched in place\n")
    assert not identifier.recheck_thoroughly(old)
    monkeypatch.setattr("mlc_jitd.identity.stamps.SOMETIMES_SECONDS", 0.0)
    assert not identifier.recheck(old)
    assert identifier.identify(at(checkout)).key != old.key


def test_a_folder_named_mlc_llm_in_the_working_folder_does_not_count(
    identifier: Identifier, ask: Callable[..., JitRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = identifier.identify(ask()).key
    (tmp_path / "mlc_llm").mkdir()
    (tmp_path / "mlc_llm" / "__init__.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert type(identifier)(tmp_path / "fresh").identify(ask()).key == key


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """An interpreter with no packages at all."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    return str(tmp_path / "venv" / "bin" / "python")


def test_an_interpreter_without_a_compiler_says_what_to_install(
    identifier: Identifier, ask: Callable[..., JitRequest], bare: str, tmp_path: Path
) -> None:
    with pytest.raises(ToolchainNotFoundError, match="neither mlc_llm nor tvm") as caught:
        identifier.identify(ask(python=bare, env={"PYTHONPATH": str(tmp_path)}))
    assert "https://mlc.ai/wheels" in caught.value.remedy
    assert bare in caught.value.remedy


@pytest.mark.parametrize("kind", ["placeholder", "namespace", "module"])
def test_pypis_placeholder_is_no_mlc_llm(
    identifier: Identifier, ask: Callable[..., JitRequest], bare: str, tmp_path: Path, kind: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    if kind == "placeholder":
        (site / "mlc_llm").mkdir()
        (site / "mlc_llm" / "__init__.py").write_text("")
        dist_info(site, "mlc_llm", "0.1", "mlc_llm")
    elif kind == "namespace":
        (site / "mlc_llm" / "cli").mkdir(parents=True)
    else:
        (site / "mlc_llm.py").write_text("")
    with pytest.raises(ToolchainNotFoundError) as caught:
        identifier.identify(ask(python=bare, env={"PYTHONPATH": str(site)}))
    assert ("empty `mlc-llm`" in str(caught.value)) == (kind == "placeholder")


def test_auto_takes_tvm_where_there_is_no_mlc_llm(
    identifier: Identifier, ask: Callable[..., JitRequest], bare: str, checkout: Path
) -> None:
    (checkout / "mlc_llm" / "cli" / "compile.py").unlink()
    request = ask(python=bare, env={"PYTHONPATH": str(checkout)})
    facts = identifier._toolchains.find(bare, "auto", request.environment)
    assert facts.name == "tvm"
    assert facts.value["own"]  # our own compiler's sources are part of it
    with pytest.raises(ToolchainNotFoundError, match="placeholder"):
        identifier._toolchains.find(bare, "mlc_llm", request.environment)


def test_mlc_llm_without_a_tvm_is_not_enough(
    identifier: Identifier, ask: Callable[..., JitRequest], bare: str, checkout: Path
) -> None:
    (checkout / "tvm").rename(checkout / "no_tvm")
    with pytest.raises(ToolchainNotFoundError, match="no tvm that it could compile with"):
        identifier.identify(ask(python=bare, env={"PYTHONPATH": str(checkout)}))


def test_nothing_of_the_compiler_is_run_by_the_probe(
    identifier: Identifier, ask: Callable[..., JitRequest], checkout: Path, tmp_path: Path
) -> None:
    for package in ("mlc_llm", "tvm"):
        source = checkout / package / "__init__.py"
        source.write_text(source.read_text() + f"\nopen({str(tmp_path / package)!r}, 'w').close()\n")
    identifier._toolchains.find(sys.executable, "auto", ask(env={"PYTHONPATH": str(checkout)}).environment)
    assert not (tmp_path / "mlc_llm").exists()
    assert not (tmp_path / "tvm").exists()


def test_a_replaced_library_is_another_toolchain(
    identifier: Identifier, ask: Callable[..., JitRequest], checkout: Path, tmp_path: Path
) -> None:
    place = tmp_path / "libraries"
    place.mkdir()
    library = place / "libtvm_compiler.so"
    library.write_bytes(b"one build")
    request = ask(env={"PYTHONPATH": str(checkout), "TVM_LIBRARY_PATH": str(place)})
    old = identifier.identify(request)
    library.write_bytes(b"two build")
    assert not identifier.recheck(old)
    assert identifier.identify(request).key != old.key


def test_the_probe_reads_gnu_build_ids() -> None:
    from mlc_jitd.toolchains.inside import probe

    library = next(iter(sorted(Path("/usr/lib").glob("**/libstdc++.so.6"))), None)
    if sys.platform != "linux" or library is None:
        pytest.skip("no ELF library at hand")
    assert probe.build_id(str(library)).startswith("build-id:")
    assert probe.build_id(json.__file__).startswith("sha256:")
    assert probe.build_id("/nowhere") == "unreadable"


@pytest.mark.parametrize("works", [True, False])
def test_a_version_that_needs_its_whole_package_gets_it(
    identifier: Identifier, at: Callable[[Path], JitRequest], checkout: Path, *, works: bool
) -> None:
    source = checkout / "mlc_llm" / "__init__.py"
    source.write_text(source.read_text() + ("NEEDED = 1\n" if works else "raise OSError('cannot load libthis.so')\n"))
    target = checkout / "mlc_llm" / "support" / "auto_target.py"
    target.write_text(target.read_text().replace("import os\n", "import os\nfrom mlc_llm import NEEDED\n"))
    if works:
        assert identifier.identify(at(checkout)).key
        return
    with pytest.raises(ToolchainNotFoundError, match=r"libthis\.so") as caught:
        identifier.identify(at(checkout))
    assert "Traceback" not in str(caught.value)


def environment_with(tmp_path: Path, double: ModuleType, name: str) -> str:
    """An interpreter of its own with a build of the double of its own."""
    venv.create(tmp_path / name, with_pip=False, symlinks=True)
    (site,) = (tmp_path / name / "lib").glob("python*/site-packages")
    double.install(site)
    (site / "mlc_llm" / "libinfo.py").write_text(f'__version__ = "{name}"\n')
    return str(tmp_path / name / "bin" / "python")


def lead(wrapper: Path, line: str) -> None:
    fresh = wrapper.with_suffix(".new")
    fresh.write_text(f"#!/bin/sh\n{line}\n")
    fresh.chmod(0o755)
    fresh.replace(wrapper)


def test_a_wrapper_that_leads_elsewhere_is_another_toolchain(
    identifier: Identifier, double: ModuleType, ask: Callable[..., JitRequest], tmp_path: Path
) -> None:
    one, other = (environment_with(tmp_path, double, name) for name in ("one", "other"))
    wrapper = tmp_path / "python"
    request = ask(python=str(wrapper), env={"PYTHONPATH": str(tmp_path / "nothing")})
    lead(wrapper, f'exec {one} "$@"')
    old = identifier.identify(request)
    assert (old.job.python, old.toolchain.python) == (one, one)  # what was fingerprinted compiles, wherever it leads
    assert identifier.recheck(old)
    lead(wrapper, f'exec {other} "$@"')
    assert not identifier.recheck(old)
    for asked in (identifier, type(identifier)(tmp_path / "memory")):
        new = asked.identify(request)
        assert new.job.python == other
        assert new.key != old.key
        assert dict(new.toolchain.versions)["mlc_llm"] == "other"


def test_a_wrapper_that_brings_the_packages_is_run_itself(
    identifier: Identifier, ask: Callable[..., JitRequest], bare: str, checkout: Path, tmp_path: Path
) -> None:
    wrapper = tmp_path / "python"
    lead(wrapper, f'PYTHONPATH={checkout} exec {bare} "$@"')
    old = identifier.identify(ask(python=str(wrapper), env={"PYTHONPATH": str(tmp_path / "nothing")}))
    assert old.job.python == str(wrapper)
    lead(wrapper, f'PYTHONPATH={checkout} exec {bare} -B "$@"')
    assert not identifier.recheck(old)


def test_a_virtual_environments_link_is_run_as_it_is_and_every_link_to_it_counts(
    identifier: Identifier, double: ModuleType, ask: Callable[..., JitRequest], tmp_path: Path
) -> None:
    environment_with(tmp_path, double, "one")
    current, between = tmp_path / "current", tmp_path / "between"
    between.symlink_to("one")
    current.symlink_to(between)
    python = str(current / "bin" / "python")
    old = identifier.identify(ask(python=python, env={"PYTHONPATH": str(tmp_path / "nothing")}))
    assert old.job.python == python
    assert dict(old.toolchain.versions)["mlc_llm"] == "one"
    links = {stamp.path for stamp in old.evidence[0].always if stamp.rule == "link"}
    assert {str(current), str(between), str(tmp_path / "one" / "bin" / "python")} <= links
    between.unlink()
    between.symlink_to("one")  # to the same place, but it may have led elsewhere in between
    assert not identifier.recheck(old)


def test_the_users_own_packages_are_those_of_the_asker(
    identifier: Identifier,
    double: ModuleType,
    ask: Callable[..., JitRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = os.path.realpath(sys.executable)  # outside any virtual environment, which has no user's packages
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for home, build in (("one", "1.0"), ("same", "1.0"), ("other", "2.0")):
        site = double.install(tmp_path / home / ".local" / "lib" / version / "site-packages")
        (site / "mlc_llm" / "libinfo.py").write_text(f'__version__ = "{build}"\n')
    monkeypatch.setenv("HOME", str(tmp_path / "other"))  # the daemon's
    nothing = str(tmp_path / "nothing")
    one, same, other = (
        identifier.identify(ask(python=python, env={"PYTHONPATH": nothing, "HOME": str(tmp_path / home)}))
        for home in ("one", "same", "other")
    )
    assert one.key == same.key != other.key
    assert dict(one.job.environment)["HOME"] == str(tmp_path / "one")
    assert dict(one.toolchain.versions)["mlc_llm"] == "1.0"


def test_a_record_that_is_replaced_while_it_is_read_is_stamped_as_it_was(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlc_jitd.toolchains.inside import probe

    record = str(dist_info(checkout, "mlc_llm", "1.0", "mlc_llm") / "RECORD")
    before = probe.stat_of(record)

    def replaced_before_it_is_read(path: str, *_: str, **__: str) -> object:
        if path == record:
            fresh = Path(record + ".new")
            fresh.write_text("mlc_llm/__init__.py,sha256=new,1\n")
            fresh.replace(record)
        return open(path, *_, **__)  # type: ignore[call-overload]  # noqa: PTH123

    monkeypatch.setattr(probe, "open", replaced_before_it_is_read, raising=False)
    stamps = probe.Stamps()
    version, _, _ = probe.distribution("mlc_llm", str(checkout / "mlc_llm"), stamps)
    assert version == "1.0"
    assert stamps.always[record][1] == before != probe.stat_of(record)


ASKS = """
import os, subprocess, sys, threading, time
from pathlib import Path
from mlc_jitd.identity.helpers import ask

start, script, late, pid = subprocess.Popen, Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[1] + ".pid")

def popen(*args, **options):
    made = start(*args, **options)
    time.sleep(late)  # the helper runs already, and its thread has not heard of it
    return made

subprocess.Popen = popen
script.write_text("import os, sys, time; open(sys.argv[0] + '.pid', 'w').write(str(os.getpid())); time.sleep(3600)")
thread = threading.Thread(target=lambda: ask(sys.executable, script, None, env=(), seconds=3600), daemon=True)
thread.start()
while not pid.exists() or not pid.read_text():
    thread.join(0.01)
"""


@pytest.mark.parametrize("late", [0, 2])
def test_helpers_end_with_whoever_asked(late: int, tmp_path: Path) -> None:
    """A thread of a process that ends waits for a compiler that hangs, or starts it: neither outlives the process."""
    script = tmp_path / "helper.py"
    subprocess.run([sys.executable, "-c", ASKS, str(script), str(late)], check=True, timeout=30)
    pid = int((tmp_path / "helper.py.pid").read_text())
    until(lambda: not alive(pid), what="the helper's end")


def test_helpers_do_not_end_with_a_child_that_was_forked(tmp_path: Path) -> None:
    forks = """
time.sleep(0.1)
if not (child := os.fork()):
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
thread.join(0.5)
assert thread.is_alive()
"""
    script = tmp_path / "helper.py"
    for late in (0, 2):  # the helper waited for; the lock held
        subprocess.run([sys.executable, "-c", ASKS + forks, str(script), str(late)], check=True, timeout=30)
        pid = int((tmp_path / "helper.py.pid").read_text())
        (tmp_path / "helper.py.pid").unlink()
        until(lambda pid=pid: not alive(pid), what="the helper's end")
