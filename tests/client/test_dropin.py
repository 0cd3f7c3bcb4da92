"""install() and uninstall() on a package of upstream's shape; what is asked then is tests/risks/test_programs.py's."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mlc_jit
from mlc_jit import JitError, api, dropin, settings
from mlc_jit import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

PACKAGES = Path(__file__).parents[1] / "double" / "packages"
NAME = "mlc_llm.interface.jit"


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(PACKAGES))
    yield
    mlc_jit.uninstall()
    for name in [name for name in sys.modules if name.split(".")[0] in ("mlc_llm", "tvm")]:
        del sys.modules[name]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []

    def library(*arguments: Any, **_named: Any) -> m.Result | None:
        if settings.mode() == "off":
            return None
        found.append(arguments)
        return m.Result(path="/ours.so", key="k", system_lib_prefix=arguments[3])

    monkeypatch.setattr(api, "library", library)
    return found


def upstream() -> Any:
    return importlib.import_module(NAME)


def call(**overrides: Any) -> Any:
    return upstream().jit(Path("/m/tiny"), overrides, "cpu").model_lib_path


def test_before_it_is_imported(asked: list[Any]) -> None:
    mlc_jit.install()
    assert "mlc_llm" not in sys.modules, "installing imports no compiler"
    assert not dropin.installed()
    assert call() == "/ours.so"
    assert dropin.installed()


def test_after_it_was_imported(asked: list[Any]) -> None:
    module = upstream()
    assert call() == "upstream's for tiny on cpu"
    mlc_jit.install()
    assert call() == "/ours.so"
    assert upstream() is module


def test_the_result_is_upstreams_own(asked: list[Any]) -> None:
    mlc_jit.install()
    result = upstream().jit(Path("/m"), {}, "iphone", "my_prefix")
    assert type(result) is upstream().JITResult
    assert (result.model_lib_path, result.system_lib_prefix) == ("/ours.so", "my_prefix")


def test_any_number_of_times_and_back(asked: list[Any]) -> None:
    before = upstream().jit
    for _ in range(3):
        mlc_jit.install()
    assert getattr(upstream().jit, dropin.ORIGINAL) is before
    for _ in range(2):
        mlc_jit.uninstall()
    assert upstream().jit is before
    assert not [finder for finder in sys.meta_path if isinstance(finder, dropin.Watcher)]
    mlc_jit.install()
    assert call() == "/ours.so"


def test_uninstalled_before_it_is_imported(asked: list[Any]) -> None:
    mlc_jit.install()
    mlc_jit.uninstall()
    assert call() == "upstream's for tiny on cpu"


def test_who_has_taken_the_function_gets_upstreams_after_uninstall(asked: list[Any]) -> None:
    mlc_jit.install()
    taken = upstream().jit
    mlc_jit.uninstall()
    assert taken(Path("/m/tiny"), {}, "cpu").model_lib_path == "upstream's for tiny on cpu"


def test_a_reload_is_noticed(asked: list[Any]) -> None:
    mlc_jit.install()
    importlib.reload(upstream())
    assert call() == "/ours.so"
    mlc_jit.uninstall()
    importlib.reload(upstream())
    assert not hasattr(upstream().jit, dropin.ORIGINAL)


def test_the_module_keeps_its_own_loader_and_its_source(asked: list[Any]) -> None:
    mlc_jit.install()
    module = upstream()
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"
    assert "habit of changing" in inspect.getsource(module)
    assert module.jit.__doc__ == getattr(module.jit, dropin.ORIGINAL).__doc__
    assert inspect.signature(module.jit) == inspect.signature(getattr(module.jit, dropin.ORIGINAL))


def test_switched_off_it_is_upstreams(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mlc_jit.install()
    monkeypatch.setenv("MLC_JITD", "off")
    assert call() == "upstream's for tiny on cpu"
    assert asked == []


def test_our_own_jit_falls_back_to_upstreams_and_not_to_itself(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlc_jit.install()
    monkeypatch.setenv("MLC_JITD", "off")
    assert mlc_jit.jit("/m/tiny", {"opt": "O3"}, "cpu").model_lib_path == "upstream's for tiny on cpu"


def test_overrides_are_not_changed_and_those_that_upstream_passes_over_are_left_out(
    asked: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    mlc_jit.install()
    given = {"max_batch_size": 4, "opt": "O3", "conv_template": "llama-2"}
    upstream().jit(Path("/m"), given, "cpu")
    assert given == {"max_batch_size": 4, "opt": "O3", "conv_template": "llama-2"}
    assert asked[0][1] == {"max_batch_size": 4, "opt": "O3"}
    assert "conv_template" in caplog.text


CHANGES = {
    "a new parameter": ("*,\n    skip_log_jit_policy", "host: str = '',\n    *,\n    skip_log_jit_policy"),
    "another name": ("model_path: Path,", "path: Path,"),
    "no default": ("system_lib_prefix: str | None = None,\n    *", "system_lib_prefix: str | None,\n    *"),
    "another result": ("system_lib_prefix: str | None = None\n\n", "prefix: str | None = None\n\n"),
    "no result": ("class JITResult:", "class Result:"),
}


@pytest.fixture(params=CHANGES)
def changed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (PACKAGES / "mlc_llm/interface/jit.py").read_text()
    old, new = CHANGES[request.param]
    assert old in source
    folder = tmp_path / "mlc_llm" / "interface"
    folder.mkdir(parents=True)
    for each in (folder.parent, folder):
        (each / "__init__.py").touch()
    (folder / "compiler_flags.py").write_text((PACKAGES / "mlc_llm/interface/compiler_flags.py").read_text())
    (folder / "jit.py").write_text(source.replace(old, new))
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_changed_upstream_is_left_alone_with_one_line(changed: None, caplog: pytest.LogCaptureFixture) -> None:
    mlc_jit.install()
    module = upstream()
    mlc_jit.install()
    assert not hasattr(module.jit, dropin.ORIGINAL)
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert "leaving it as it is" in said[0].getMessage()
    assert "\n" not in said[0].getMessage()


def test_a_changed_upstream_is_an_error_where_the_daemon_is_required(
    changed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_JITD", "require")
    mlc_jit.install()
    with pytest.raises(JitError, match="MLC_JITD=require"):
        upstream().jit("/m", {}, "cpu")


def test_a_module_that_fails_fails_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mlc_llm" / "interface"
    folder.mkdir(parents=True)
    for each in (folder.parent, folder):
        (each / "__init__.py").touch()
    (folder / "jit.py").write_text("raise ImportError('no tvm here')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    mlc_jit.install()
    with pytest.raises(ImportError, match="no tvm here"):
        upstream()
    assert NAME not in sys.modules


def test_other_finders_are_asked_in_their_order(asked: list[Any]) -> None:
    seen: list[str] = []

    class Finder:
        def find_spec(self, fullname: str, _path: Any = None, _target: ModuleType | None = None) -> None:
            seen.append(fullname)

    finder: Any = Finder()
    mlc_jit.install()
    sys.meta_path.insert(1, finder)
    try:
        assert call() == "/ours.so"
    finally:
        sys.meta_path.remove(finder)
    assert NAME in seen
