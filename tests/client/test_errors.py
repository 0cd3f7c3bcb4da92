from __future__ import annotations

import pickle
import re

import pytest

from mlc_jit import errors
from mlc_jit import messages as m
from mlc_jit.errors import JitError, error_class

FACTS = {"remedy": "Do this.", "reason": "absent", "key": "ab" * 32, "log_path": "/l.log", "log_tail": "last\nlines"}


def _tree(root: type[JitError]) -> list[type[JitError]]:
    return [root, *(each for child in root.__subclasses__() for each in _tree(child))]


ALL = [cls for cls in _tree(JitError) if cls.__module__ == "mlc_jit.errors"]
OTHERS = [m.UnknownVerbError, m.InvalidMessageError]


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawn: dict[str, tuple[str, str]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│├└─ ]*)(\w+Error)(?:\((\w+)\))?(?: +([a-z-]+))?$", line)
        if found is None:
            continue
        depth = len(found[1]) // 4
        del above[depth:]
        drawn[found[2]] = (above[-1] if above else found[3] or "", found[4] or "")
        above.append(found[2])
    assert set(drawn) == {cls.__name__ for cls in ALL}
    for cls in ALL:
        parent, kind = drawn[cls.__name__]
        assert cls.__bases__[0].__name__ == parent
        assert kind in ("", cls.kind)


def test_a_builtin_base_is_drawn_beside_the_class() -> None:
    for cls in ALL:
        for base in cls.__bases__:
            if not issubclass(base, JitError):
                assert f"{cls.__name__}({base.__name__})" in (errors.__doc__ or "")


def test_all_names_the_tree_and_the_look_up_in_order() -> None:
    assert errors.__all__ == sorted(errors.__all__)
    assert set(errors.__all__) == {cls.__name__ for cls in ALL} | {"error_class"}


def test_kinds_are_unique_and_lead_back_to_their_class() -> None:
    assert len({cls.kind for cls in ALL}) == len(ALL)
    for cls in ALL:
        assert "kind" in vars(cls), f"{cls.__name__} would travel as its parent"
        assert error_class(cls.kind) is cls
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cls.kind)


def test_an_unknown_kind_is_a_plain_error() -> None:
    assert error_class("invented-later") is JitError
    assert error_class("") is JitError


@pytest.mark.parametrize("cls", [*ALL, *OTHERS])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_pickles_with_all_its_facts(cls: type[JitError], protocol: int) -> None:
    error = cls("What happened.", **FACTS)
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is cls
    assert (back.message, back.facts(), str(back), back.args) == (error.message, FACTS, str(error), error.args)


@pytest.mark.parametrize("cls", [*ALL, *OTHERS])
def test_every_error_is_a_runtime_error_with_its_sentence(cls: type[JitError]) -> None:
    error = cls("What happened.")
    assert isinstance(error, RuntimeError)
    assert str(error) == "What happened."
    assert set(error.facts().values()) == {""}
    assert cls.__doc__


def test_the_text_holds_the_remedy_and_where_the_log_is_but_not_the_log() -> None:
    assert str(JitError("What happened.", **FACTS)) == "What happened.\nDo this.\nCompiler log: /l.log"


def test_builtin_bases() -> None:
    assert issubclass(errors.ConfigNotFoundError, FileNotFoundError)
    assert str(errors.ConfigNotFoundError("No config there.")) == "No config there."
    assert errors.ConfigNotFoundError("x").errno is None
    for cls in (errors.ConfigInvalidError, errors.OverrideInvalidError, errors.DeviceInvalidError):
        assert issubclass(cls, ValueError)
    for cls in (errors.JitDisabledError, errors.NotCachedError, errors.CompileError):
        assert issubclass(cls, RuntimeError)
        assert not issubclass(cls, ValueError)


@pytest.mark.parametrize("cls", ALL)
def test_the_wire_carries_every_error(cls: type[JitError]) -> None:
    error = cls("What happened.", **FACTS)
    back = m.decode(m.encode(m.Failure.of(error, id=1)), m.REPLIES, strict=True)
    assert isinstance(back, m.Failure)
    assert type(back.error()) is cls
    assert back.error().facts() == FACTS
