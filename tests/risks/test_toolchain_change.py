"""Risk: a library of another compiler is handed out after an upgrade, or a rollback compiles all over again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness.daemons import status, until
from mlc_jit import jit

if TYPE_CHECKING:
    from pathlib import Path

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double


@pytest.fixture
def site(double: Double, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The double's packages, to edit."""
    folder = double.install()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def set_version(site: Path, version: str) -> None:
    """An upgrade in place."""
    path = site / "mlc_llm" / "libinfo.py"
    fresh = path.with_suffix(".new")
    fresh.write_text(f'__version__ = "{version}"\n')
    fresh.rename(path)


def test_an_upgrade_is_a_miss_and_a_rollback_a_hit(daemon: Daemon, double: Double, site: Path) -> None:
    model = double.model()
    set_version(site, "1.0")
    old = jit(model, {}, "cpu").model_lib_path
    assert jit(model, {}, "cpu").model_lib_path == old
    set_version(site, "2.0")
    new = jit(model, {}, "cpu").model_lib_path
    assert new != old
    set_version(site, "1.0")
    assert jit(model, {}, "cpu").model_lib_path == old
    set_version(site, "2.0")
    assert jit(model, {}, "cpu").model_lib_path == new
    assert len(double.starts()) == 2
    assert status().counters["compiles"] == 2


def test_a_changed_source_is_a_miss(daemon: Daemon, double: Double, site: Path) -> None:
    model = double.model()
    old = jit(model, {}, "cpu").model_lib_path
    source = site / "mlc_llm" / "interface" / "compiler_flags.py"
    source.write_text(source.read_text() + "\n# a fix\n")
    new = jit(model, {}, "cpu").model_lib_path
    assert new != old
    assert len(double.starts()) == 2


def test_a_compiler_that_is_replaced_while_it_compiles(
    daemon: Daemon, double: Double, site: Path, client: Clients, place: Place
) -> None:
    gate = double.gate()
    model = double.model(told={"wait_for": gate})
    fleet = client.fleet([model] * 3)
    until(double.starts)
    set_version(site, "2.0")
    gate.touch()
    paths = fleet.paths()  # the new compiler's, without anybody asking again
    assert len(set(paths)) == 1
    assert len(double.starts()) == 2
    assert [str(path) for path in place.artifacts()] == paths[:1]
    assert jit(model, {}, "cpu").model_lib_path == paths[0]


def test_a_compiler_that_is_taken_away(
    daemon: Daemon, double: Double, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = double.model()
    path = jit(model, {}, "cpu").model_lib_path
    away = site.with_name("away")
    site.rename(away)
    site.mkdir()
    monkeypatch.setenv("MLC_JITD_TOOLCHAIN", "mlc_llm")
    with pytest.raises(RuntimeError, match="no mlc_llm"):
        jit(model, {}, "cpu")
    site.rmdir()
    away.rename(site)
    assert jit(model, {}, "cpu").model_lib_path == path
    assert len(double.starts()) == 1
