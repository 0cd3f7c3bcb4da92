from __future__ import annotations

from pathlib import Path

import pytest

from mlc_jitd.store.layout import (
    SUFFIXES,
    Layout,
    artifact_name,
    check_key,
    check_suffix,
    key_of_artifact,
    key_of_manifest,
)

KEY = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "key", ["", "ab", KEY.upper(), KEY + "0", "../" + KEY[3:], KEY[:-1] + "\n", KEY + "\n", "٣" * 64]
)
def test_a_key_that_could_leave_the_folder_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="64 lower-case hex digits"):
        check_key(key)


@pytest.mark.parametrize("suffix", ["", "SO", "so/../x", "py", ".so", "so\n"])
def test_a_suffix_that_is_no_librarys_is_refused(suffix: str) -> None:
    with pytest.raises(ValueError, match="suffix"):
        check_suffix(suffix)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_names_lead_back_to_their_key(suffix: str) -> None:
    name = artifact_name(check_key(KEY), "f" * 64, check_suffix(suffix))
    assert key_of_artifact(name) == KEY
    assert key_of_manifest(f"{KEY}.json") == KEY


@pytest.mark.parametrize(
    "name", ["d41d8cd98f00b204e9800998ecf8427e.so", f"{KEY}.so", f"{KEY}-{'0' * 16}.so.bak", f"x{KEY}.json"]
)
def test_names_of_others_are_not_ours(name: str) -> None:
    assert key_of_artifact(name) is None
    assert key_of_manifest(name) is None


def test_everything_lies_beside_upstreams_libraries() -> None:
    layout = Layout.of(Path("/home"))
    assert layout.manifest(KEY) == Path("/home/model_lib") / f"{KEY}.json"
    assert {layout.locks.parent, layout.staging.parent, layout.quarantine.parent} == {Path("/home/model_lib")}
