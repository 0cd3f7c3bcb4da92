"""What a client remembers between calls must follow its environment and its home."""

from __future__ import annotations

import os

from mlc_jit import environment, variables
from mlc_jit.locations import locate


def test_variables_follow_the_environment_at_each_call(monkeypatch):
    monkeypatch.setenv("MLC_MULTI_ARCH", "80")
    assert environment.own()["MLC_MULTI_ARCH"] == "80"
    monkeypatch.setenv("MLC_MULTI_ARCH", "90")
    assert environment.own()["MLC_MULTI_ARCH"] == "90"
    monkeypatch.delenv("MLC_MULTI_ARCH")
    assert "MLC_MULTI_ARCH" not in environment.own()
    assert environment.own() == variables.collect(os.environ)


def test_places_follow_the_variables_and_the_home(monkeypatch, tmp_path):
    home = tmp_path / "one"
    monkeypatch.setenv("MLC_LLM_HOME", str(home))
    first = locate()
    assert locate() is first
    home.rename(tmp_path / "away")
    second = locate()
    assert second.socket != first.socket, "a home made anew is another home"
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "away"))
    assert locate().socket == first.socket, "a home that moved is the same home"
    monkeypatch.setenv("MLC_JITD_SOCKET", str(tmp_path / "s"))
    assert locate().socket == tmp_path / "s"
