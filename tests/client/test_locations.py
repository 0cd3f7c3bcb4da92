from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlc_jit.errors import AccessRefusedError, StoreUnwritableError
from mlc_jit.locations import SUN_PATH_BYTES, cache_home, default_runtime, locate, private_folder


def test_the_cache_home_is_upstreams():
    assert cache_home({"MLC_LLM_HOME": "/a/b", "XDG_CACHE_HOME": "/c"}) == Path("/a/b")
    assert cache_home({"XDG_CACHE_HOME": "/c"}) == Path("/c/mlc_llm")
    assert cache_home({"MLC_LLM_HOME": "", "XDG_CACHE_HOME": ""}).parts[-2:] == (".cache", "mlc_llm")


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert cache_home({"MLC_LLM_HOME": "here"}) == tmp_path / "here"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/")
    with pytest.raises(StoreUnwritableError, match="MLC_LLM_HOME"):
        cache_home({})


def test_one_home_is_one_socket_by_whatever_path(tmp_path: Path):
    env = {"MLC_JITD_RUNTIME_DIR": str(tmp_path / "run")}
    (tmp_path / "link").symlink_to(tmp_path / "home")
    first = locate({**env, "MLC_LLM_HOME": str(tmp_path / "home")})
    again = locate({**env, "MLC_LLM_HOME": str(tmp_path / "link")})
    other = locate({**env, "MLC_LLM_HOME": str(tmp_path / "other")})
    assert (first.socket, first.lock, first.log) == (again.socket, again.lock, again.log)
    assert first.socket != other.socket
    assert first.lock != other.lock


def test_locating_makes_the_home_and_nothing_else(tmp_path: Path):
    locate({"MLC_LLM_HOME": str(tmp_path / "a" / "home"), "MLC_JITD_RUNTIME_DIR": str(tmp_path / "run")})
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "home"]


def test_the_session_has_no_say(tmp_path: Path):
    env = {"MLC_LLM_HOME": str(tmp_path)}
    assert locate(env).socket == locate({**env, "XDG_RUNTIME_DIR": "/run/user/1", "TMPDIR": "/x"}).socket
    assert locate(env).runtime == default_runtime() == Path(f"/tmp/mlc-jitd-{os.getuid()}")


def test_the_paths_of_one_daemon_differ(tmp_path: Path):
    places = locate({"MLC_LLM_HOME": str(tmp_path)})
    paths = [places.socket, places.lock, places.start_lock, places.log, places.start_error]
    assert len(set(paths)) == len(paths)
    assert {path.parent for path in paths} == {places.runtime}


def test_a_socket_may_be_named(tmp_path: Path):
    places = locate({"MLC_LLM_HOME": str(tmp_path), "MLC_JITD_SOCKET": "/run/jitd.sock"})
    assert places.socket == Path("/run/jitd.sock")
    assert places.lock.parent == places.runtime


@pytest.mark.parametrize(("length", "fits"), [(SUN_PATH_BYTES - 1, True), (SUN_PATH_BYTES, False)])
def test_a_socket_path_that_the_system_would_cut_is_refused(tmp_path: Path, length: int, fits: bool):
    env = {"MLC_LLM_HOME": str(tmp_path), "MLC_JITD_SOCKET": "/" + "s" * (length - 1)}
    if fits:
        assert len(os.fsencode(locate(env).socket)) == length
    else:
        with pytest.raises(AccessRefusedError, match=f"{length} bytes"):
            locate(env)


def test_a_home_that_can_not_be_made_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnwritableError, match="MLC_LLM_HOME"):
        locate({"MLC_LLM_HOME": str(tmp_path / "file" / "home")})


def test_a_private_folder_is_made_private(tmp_path: Path):
    old = os.umask(0)
    try:
        private_folder(tmp_path / "run")
    finally:
        os.umask(old)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    private_folder(tmp_path / "run")


def test_a_link_is_no_private_folder(tmp_path: Path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(AccessRefusedError, match="is not a folder"):
        private_folder(tmp_path / "link")


def test_a_file_is_no_private_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnwritableError):
        private_folder(tmp_path / "file")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_folder_is_refused(tmp_path: Path):
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", 65534, 65534)
    with pytest.raises(AccessRefusedError, match="uid 65534"):
        private_folder(tmp_path / "run")


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o770)
    with pytest.raises(AccessRefusedError, match="0770"):
        private_folder(tmp_path / "run")
