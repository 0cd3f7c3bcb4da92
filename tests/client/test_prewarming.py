"""A list of what is to be in the cache: what it comes to, and what its errors say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mlc_jit import prewarming
from mlc_jit.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from harness.daemons import Place
    from harness.doubles import Double


def listed(place: Place, text: str) -> tuple[prewarming.Item, ...]:
    path = place.root / "list.toml"
    path.write_text(text)
    return prewarming.read(path)


def test_an_entry_stands_for_every_combination(place: Place) -> None:
    items = listed(
        place,
        """
        opt = "O3"
        [[prewarm]]
        model = ["/a", "b"]
        device = ["cpu", { kind = "cuda", arch = "sm_90" }]
        overrides = [{}, { x = 1, y = true }]
        [[prewarm]]
        model = "/a"
        device = "cpu"
        opt = ["O1", "O3"]
        pin = true
        """,
    )
    assert len(items) == 8 + 2
    assert {item.model for item in items} == {"/a", str(place.root / "b")}
    assert {item.opt for item in items} == {"O3", "O1"}
    assert json.loads(items[2].device) == {"kind": "cuda", "arch": "sm_90"}
    assert [item.pin for item in items] == [False] * 8 + [True] * 2
    assert items[1].label == "a cpu O3 x=1 y=True"


def test_what_is_listed_twice_is_asked_for_once(place: Place) -> None:
    assert len(listed(place, '[[prewarm]]\nmodel = ["/a", "/a", "/b/../a/."]\n')) <= 2
    assert len(listed(place, '[[prewarm]]\nmodel = "/a"\n[[prewarm]]\nmodel = "/a"\n')) == 1


def test_the_request_goes_behind_others(place: Place, double: Double) -> None:
    (item,) = listed(
        place,
        f"""
        [[prewarm]]
        model = "{double.model()}"
        device = "cpu"
        overrides = {{ max_batch_size = 2 }}
        opt = "O1"
        python = "/some/python"
        toolchain = "tvm"
        system_lib_prefix = "p_"
        """,
    )
    request = item.request()
    assert (request.prewarm, request.python, request.toolchain) == (True, "/some/python", "tvm")
    assert (request.overrides, request.opt, request.system_lib_prefix) == ({"max_batch_size": 2}, "O1", "p_")


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("", "has no [[prewarm]] entry", "Write [[prewarm]]"),
        ("prewarm = 1", "has no [[prewarm]] entry", "Write [[prewarm]]"),
        ("[[prewarm]]", "number 1 has no `model`", "Write model"),
        ('[[prewarm]]\nmodel="/a"\n[[prewarm]]\nmodle="/a"', "number 2: `modle` is not known", "Did you mean `model`?"),
        ('[[prewarm]]\nmodel="/a"\nfoo=1', "`foo` is not known", "Known are model, device"),
        ('model="/a"\n[[prewarm]]\nmodel="/a"', "above the entries: `model`", "below [[prewarm]]"),
        ("[[prewarm]]\nmodel=1", "`model` can't be 1", "a folder"),
        ("[[prewarm]]\nmodel=[]", "`model` can't be []", "a folder"),
        ('[[prewarm]]\nmodel="/a"\ndevice=0', "`device` can't be 0", "text such as"),
        ('[[prewarm]]\nmodel="/a"\noverrides={opt="O2"}', "`overrides` can't be", "a table"),
        ('[[prewarm]]\nmodel="/a"\noverrides={a=[1]}', "`overrides` can't be", "a table"),
        ('[[prewarm]]\nmodel="/a"\npin="yes"', "`pin` can't be 'yes'", "true or false"),
        ('[[prewarm]]\nmodel="/a"\ntoolchain="gcc"', "`toolchain` can't be 'gcc'", "auto, mlc_llm or tvm"),
        ("[[prewarm", "is no TOML", "Correct that line"),
        ('[[prewarm]]\nmodel=["/a"]\nopt=["O1"' + "]\noverrides=["
         + ",".join(f"{{a={n}}}" for n in range(1001)) + "]", "more than 1000", "Split it"),
    ],
)  # fmt: skip
def test_errors_name_the_key_and_the_remedy(place: Place, text: str, message: str, remedy: str) -> None:
    with pytest.raises(RequestError) as caught:
        listed(place, text)
    assert message in str(caught.value)
    assert "list.toml" in caught.value.message
    assert remedy in caught.value.remedy


def test_a_list_that_is_not_there(place: Place) -> None:
    with pytest.raises(RequestError, match="can't be read: No such file"):
        prewarming.read(place.root / "none.toml")
    binary: Path = place.root / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match="not UTF-8"):
        prewarming.read(binary)
