"""The wire: bytes that never change, and bytes from strangers.

``golden/protocol-1.json`` holds the bytes of every message of protocol 1, written once. A message that is new gets a
new line there; a line that is there is never changed, or programs that are out there break.
"""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from pathlib import Path
from typing import Any, Literal

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlc_jit import messages as m
from mlc_jit.errors import CompileError, JitError, NotCachedError, ProtocolError

GOLDEN: dict[str, str] = json.loads((Path(__file__).parent / "golden" / "protocol-1.json").read_text())
BOTH = {**m.REQUESTS, **m.REPLIES}
CASES = int(os.environ.get("MLC_JITD_TEST_FUZZ", "300"))
"""Of each fuzz test; more by hand: ``MLC_JITD_TEST_FUZZ=20000``, with ``-k fuzz --timeout 900``."""

quick = settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

VALUES: dict[str, m.Message] = {
    "hello": m.Hello(id=0, protocol=1, version="0.1.0", features=("jit", "progress")),
    "jit": m.JitRequest(
        id=7,
        config=b'{"model_type": "llama"}\n',
        model_path="/models/Llama-3-8B-q4f16_1-MLC",
        overrides={"context_window_size": 4096, "ratio": 0.5, "flag": True, "name": "x", "nothing": None},
        opt="O3",
        device="cuda:0",
        system_lib_prefix="llama_",
        policy="REDO",
        python="/usr/bin/python3",
        toolchain="tvm",
        environment={"CUDA_VISIBLE_DEVICES": "0", "PATH": "/usr/bin"},
        prewarm=True,
        progress=True,
    ),
    "jit-least": m.JitRequest(config=b"{}", device="cpu", python="/usr/bin/python3"),
    "leave": m.Leave(id=7, cancel=True),
    "cancel": m.Cancel(id=8, key="abc123"),
    "status": m.StatusRequest(id=9),
    "list": m.ListRequest(id=10),
    "stop": m.StopRequest(id=11, now=True),
    "welcome": m.Welcome(
        id=0, protocol=1, version="0.1.0", features=("jit",), pid=4242, home="/home/u/.cache/mlc_llm", log_path="/l"
    ),
    "heartbeat": m.Heartbeat(),
    "progress": m.Progress(id=7, stage="lower", detail="35 of 70 functions", fraction=0.5, elapsed=1.25, key="ab" * 32),
    "progress-least": m.Progress(id=7, stage="start"),
    "progress-left": m.Progress(id=7, stage="lower", fraction=0.5, elapsed=1.25, key="ab" * 32, left=40.0),
    "result": m.Result(
        id=7,
        path="/home/ü/.cache/mlc_llm/model_lib/abab-cdcd.so",
        key="ab" * 32,
        system_lib_prefix="llama_",
        source="joined",
        reason="damaged",
        seconds=61.5,
        toolchain="mlc_llm",
        degraded=("flashinfer: not found",),
    ),
    "error": m.Failure(
        id=7,
        kind="compile-failed",
        message="The compiler said no.",
        remedy="Ask again.",
        reason="exit-1",
        key="ab" * 32,
        log_path="/tmp/x.log",
        log_tail="Traceback\nValueError: no\n",
    ),
    "result-later": m.Result(
        id=7, path="/lib.so", key="ab" * 32, source="compiled", reason="absent", detail="no entries", warning="!"
    ),
    "explain": m.Explain(id=13, request=m.JitRequest(config=b"{}", device="cpu", python="/usr/bin/python3")),
    "explained": m.Explained(
        id=13,
        key="ab" * 32,
        hit=False,
        path="",
        reason="absent",
        words="the nearest entry, cdcdcdcdcdcd, differs: opt O2 there, O3 here",
        remedy="-",
        parts=(m.PartReport(name="opt", sha256="ef" * 32, words="O3"),),
        compared=2,
        nearest=(
            m.NearReport(
                key="cd" * 32, model="/m", toolchain="mlc_llm 0.20", created=1.7e9,
                differences=(m.DifferenceReport(part="opt", field="", there='"O2"', here='"O3"', words="opt"),),
            ),
        ),
        upstream=(m.UpstreamReport(device="cpu:0", file="ab.so", holds="nothing"),),
    ),
    "keep": m.Keep(
        id=13, keep="pin", ask=m.JitRequest(config=b"{}", device="cpu", python="/p", overrides={"a": 1}, prewarm=True)
    ),
    "keep-folder": m.Keep(id=13, folder="/models/m"),
    "keep-key": m.Keep(id=13, key="abcd", keep="pin"),
    "watch": m.WatchRequest(id=14),
    "records": m.RecordsRequest(id=15),
    "records-are": m.Records(id=15, jobs=('{"v":1}',), more=True),
    "cancelled": m.Cancelled(id=8, key="ab" * 32),
    "kept": m.Kept(id=13, keys=("ab" * 32,), folder="/models/m", keep="pin"),
    "event": m.Event(id=14, what="ready", folder="/models/m", key="ab" * 32, detail="compiled", at=1.7e9),
    "status-is-folders": m.Status(
        id=9, version="0.1.0", pid=4242, uptime=12.5, home="/h", socket="/s", log_path="/l",
        folders=(m.FolderReport(path="/m", watched="polling", why="nfs", keep="pin", keys=("ab",)),),
    ),
    "listing-marks": m.Listing(
        id=10,
        entries=(
            m.EntryReport(
                key="ab", path="/p", size=9, created=1.7e9, seconds=2.5, model="/m", device="cpu", toolchain="tvm",
                pinned="pinned", stale=1.7e9,
            ),
        ),
    ),
    "status-is": m.Status(
        id=9,
        version="0.1.0",
        pid=4242,
        uptime=12.5,
        home="/h",
        socket="/s",
        log_path="/l",
        draining=True,
        slots=2,
        jobs=(
            m.JobReport(key="ab", state="running", model="/m", device="cpu", stage="s", elapsed=1.5, waiters=2, pid=3),
        ),
        entries=3,
        bytes=1 << 40,
        counters={"hits": 5},
    ),
    "status-is-progress": m.Status(
        id=9, version="0.1.0", pid=4242, uptime=12.5, home="/h", socket="/s", log_path="/l",
        jobs=(m.JobReport(key="ab", state="running", stage="s", detail="3 of 9", fraction=0.5, left=40.0),),
    ),
    "status-is-cache": m.Status(
        id=9, version="0.1.0", pid=4242, uptime=12.5, home="/h", socket="/s", log_path="/l",
        cache=m.CacheReport(
            max_size=20 << 30, leased=3, pinned=2, stale=1, collected=1.7e9, removed=4, freed=5000, over=6, short=7
        ),
    ),
    "listing": m.Listing(
        id=10,
        entries=(
            m.EntryReport(
                key="ab", path="/p", size=9, created=1.7e9, seconds=2.5, model="/m", device="cpu", toolchain="tvm",
                degraded=("x",),
            ),
        ),
        more=True,
    ),
    "status-is-layers": m.Status(
        id=9, version="0.1.0", pid=4242, uptime=12.5, home="/h", socket="/s", log_path="/l",
        layers=(
            m.LayerReport(path="/opt/cache", state="ok", entries=2, bytes=1000),
            m.LayerReport(path="/mnt/share", state="away", detail="it does not answer", remedy="See to its mount."),
        ),
    ),
    "listing-layer": m.Listing(
        id=10,
        entries=(
            m.EntryReport(
                key="ab", path="/p", size=9, created=1.7e9, seconds=2.5, model="/m", device="cpu", toolchain="tvm",
                layer="/opt/cache",
            ),
        ),
    ),
    "top": m.TopRequest(id=15, recent=3),
    "top-is": m.Top(
        id=15, version="0.1.0", pid=4242, uptime=12.5, home="/h", draining=True, slots=2,
        jobs=(m.JobReport(key="ab", state="running", stage="s", fraction=0.5),),
        counters={"hits": 5},
        host=m.HostReport(
            cores=1.5, memory_total=9, memory_available=8, gpus=1, cores_per_job=1, resident=7, processor=0.5, waiting=6
        ),
        recent=(
            m.OutcomeReport(
                at=1.7e9, what="compiled", key="ab", model="/m", device="cpu", seconds=2.5, detail="absent", waiters=2,
                program="serve.py", pid=3,
            ),
        ),
    ),
    "status-is-host": m.Status(
        id=9, version="0.1.0", pid=4242, uptime=12.5, home="/h", socket="/s", log_path="/l",
        host=m.HostReport(cores=2.0, memory_total=9, memory_available=8, resident=7),
    ),
    "status-is-remote": m.Status(
        id=9, version="0.1.0", pid=4242, uptime=12.5, home="/h", socket="/s", log_path="/l",
        remote=m.RemoteReport(
            url="s3://b/p", state="away", role="builder", detail="it broke", again=2.5, waiting=3,
            refused=("v1/x: no",), leases="no",
        ),
    ),
    "stopping": m.Stopping(id=11, pid=4242, jobs=1),
    "unsupported": m.Unsupported(id=12, asked="teleport", features=("jit",)),
}  # fmt: skip


# --- golden bytes ---------------------------------------------------------------------------------------------------


def test_every_verb_has_golden_bytes() -> None:
    assert {VALUES[name].verb for name in GOLDEN} == set(BOTH)
    assert set(VALUES) == set(GOLDEN), {name: m.encode(VALUES[name]).hex() for name in set(VALUES) - set(GOLDEN)}


def test_the_protocol_number_and_verbs_are_those_of_the_golden_file() -> None:
    assert m.PROTOCOL == 1, "a new protocol gets a golden file of its own, and this one goes on to be read"
    assert not set(m.REQUESTS) & set(m.REPLIES)


@pytest.mark.parametrize("name", VALUES)
def test_the_bytes_are_what_they_always_were(name: str) -> None:
    assert m.encode(VALUES[name]).hex() == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes_are_understood(name: str) -> None:
    assert m.decode(bytes.fromhex(GOLDEN[name]), BOTH, strict=True) == VALUES[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes_are_understood_without_checks_but_for_nested_values(name: str) -> None:
    message = m.decode(memoryview(bytes.fromhex(GOLDEN[name])), BOTH, strict=False)
    assert type(message) is type(VALUES[name])
    for each in dataclasses.fields(message):
        expected = getattr(VALUES[name], each.name)
        if isinstance(expected, tuple):
            expected = tuple(msgpack.unpackb(m.encode(VALUES[name])).get(each.name, ()))
        elif dataclasses.is_dataclass(expected):
            expected = msgpack.unpackb(m.encode(VALUES[name]))[each.name]
        assert getattr(message, each.name) == expected


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("strict", [True, False])
def test_a_peer_that_lacks_a_newer_field_is_understood(name: str, strict: bool) -> None:
    fields = msgpack.unpackb(bytes.fromhex(GOLDEN[name]))
    for each in dataclasses.fields(VALUES[name]):
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            continue
        older = {key: value for key, value in fields.items() if key != each.name}
        message = m.decode(msgpack.packb(older), BOTH, strict=strict)
        default = each.default_factory() if each.default is dataclasses.MISSING else each.default
        assert getattr(message, each.name) == default


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("strict", [True, False])
def test_unknown_fields_are_ignored(name: str, strict: bool) -> None:
    fields = msgpack.unpackb(bytes.fromhex(GOLDEN[name]))
    plain = m.decode(msgpack.packb(fields), BOTH, strict=strict)
    assert m.decode(msgpack.packb({**fields, "invented_later": {"a": [1]}}), BOTH, strict=strict) == plain


def test_unknown_fields_of_nested_values_are_ignored() -> None:
    fields = msgpack.unpackb(bytes.fromhex(GOLDEN["status-is"]))
    fields["jobs"][0]["invented_later"] = 1
    assert m.decode(msgpack.packb(fields), m.REPLIES, strict=True) == VALUES["status-is"]


@pytest.mark.parametrize("strict", [True, False])
def test_a_field_that_is_added_with_a_default_reads_old_bytes(strict: bool) -> None:
    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Newer(m.Progress):
        eta: float = 3.5

    message = m.decode(bytes.fromhex(GOLDEN["progress"]), {"progress": Newer}, strict=strict)
    assert message == Newer(**dataclasses.asdict(VALUES["progress"]), eta=3.5)
    assert m.decode(m.encode(message), m.REPLIES, strict=strict) == VALUES["progress"]


def test_a_field_that_joined_later_is_left_out_where_it_has_its_default() -> None:
    assert "left" not in msgpack.unpackb(m.encode(m.Progress(stage="start")))
    assert msgpack.unpackb(m.encode(m.Progress(stage="start", left=0.0)))["left"] == 0.0
    status = m.Status(
        version="", pid=1, uptime=0.0, home="", socket="", log_path="", jobs=(m.JobReport(key="ab", state="queued"),)
    )
    assert not {"detail", "fraction", "left"} & set(msgpack.unpackb(m.encode(status))["jobs"][0])


# --- round trips ----------------------------------------------------------------------------------------------------


PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(0, (1 << 63) - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: st.text(max_size=30),
    bytes: st.binary(max_size=60),
    type(None): st.none(),
}


def _strategy(hint: Any) -> st.SearchStrategy[Any]:
    if hint in PLAIN:
        return PLAIN[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(_strategy, arguments))
    if origin is tuple:
        return st.lists(_strategy(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(_strategy(arguments[0]), _strategy(arguments[1]), max_size=4)
    assert dataclasses.is_dataclass(hint), hint
    return _instances(hint)


def _instances(cls: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{each.name: _strategy(hints[each.name]) for each in dataclasses.fields(cls)})


@pytest.mark.parametrize("cls", BOTH.values(), ids=lambda cls: cls.__name__)
def test_every_message_survives_the_journey(cls: type[m.Message]) -> None:
    @quick
    @given(_instances(cls))
    def check(message: m.Message) -> None:
        payload = m.encode(message)
        back = m.decode(payload, BOTH, strict=True)
        assert back == message
        assert m.encode(back) == payload  # equal is not the same: 1, 1.0 and True
        assert type(m.decode(payload, BOTH, strict=False)) is cls

    check()


# --- strangers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
def test_an_unknown_verb_can_be_answered(strict: bool) -> None:
    with pytest.raises(m.UnknownVerbError) as caught:
        m.decode(msgpack.packb({"verb": "teleport" * 20, "id": 5}), m.REQUESTS, strict=strict)
    assert caught.value.id == 5
    assert caught.value.verb == ("teleport" * 20)[:40]


def test_a_reply_is_no_request() -> None:
    with pytest.raises(m.UnknownVerbError):
        m.decode(m.encode(m.Heartbeat()), m.REQUESTS, strict=True)


@pytest.mark.parametrize(
    "change",
    [
        {"config": "text"},
        {"config": None},
        {"policy": "MAYBE"},
        {"policy": 1},
        {"overrides": [1]},
        {"overrides": {"a": [1]}},
        {"environment": {"A": 1}},
        {"device": b"cuda"},
        {"prewarm": 1},
        {"toolchain": "gcc"},
        {"system_lib_prefix": 5},
    ],
)
def test_a_field_of_the_wrong_type_is_refused_under_its_id(change: dict[str, Any]) -> None:
    fields = msgpack.unpackb(bytes.fromhex(GOLDEN["jit"]))
    with pytest.raises(m.InvalidMessageError) as caught:
        m.decode(msgpack.packb({**fields, **change}), m.REQUESTS, strict=True)
    assert caught.value.id == 7


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", ["config", "device", "python"])
def test_a_missing_field_is_refused_under_its_id(name: str, strict: bool) -> None:
    fields = msgpack.unpackb(bytes.fromhex(GOLDEN["jit"]))
    del fields[name]
    with pytest.raises(m.InvalidMessageError, match=name) as caught:
        m.decode(msgpack.packb(fields), m.REQUESTS, strict=strict)
    assert caught.value.id == 7


@pytest.mark.parametrize(
    "value",
    [
        None, 5, [], "hello", {}, {"verb": "hello", "id": -1}, {"verb": "hello", "id": 1 << 63}, {"verb": 1, "id": 1},
        {"verb": "hello", "id": "1"}, {"verb": "hello", "id": True}, {"verb": "hello", "id": 1.0}, {"id": 1},
        {1: 2}, {"verb": b"hello"},
    ],
)  # fmt: skip
def test_a_broken_envelope_can_not_be_answered(value: Any) -> None:
    with pytest.raises(ProtocolError) as caught:
        m.decode(msgpack.packb(value), BOTH, strict=True)
    assert type(caught.value) is ProtocolError


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\xa5abc",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x81\xa1a" * 100_000,
        b"\x82\xa4verb\xa5hello\xa4verb",
        b"\x80\x80",
        b"\x81\xa4verb\xa2\xff\xfe",
        b"\xd6\xff\x00\x00\x00\x00",
    ],
    ids=lambda payload: payload[:12].hex() or "empty",
)
@pytest.mark.parametrize("strict", [True, False])
def test_no_bytes_hurt(payload: bytes, strict: bool) -> None:
    with pytest.raises(ProtocolError):
        m.decode(payload, BOTH, strict=strict)


def test_a_map_beyond_all_measure_is_refused() -> None:
    fields = msgpack.unpackb(bytes.fromhex(GOLDEN["jit"]))
    fields["environment"] = {str(n): "" for n in range(5000)}
    with pytest.raises(ProtocolError, match="not a msgpack message"):
        m.decode(msgpack.packb(fields), m.REQUESTS, strict=True)


def _judged(payload: bytes) -> None:
    for strict in (True, False):
        try:
            message = m.decode(payload, BOTH, strict=strict)
        except ProtocolError:
            continue
        assert isinstance(message, m.Message)


@settings(quick, max_examples=CASES)
@given(st.binary(max_size=200))
def test_fuzz_random_bytes(payload: bytes) -> None:
    _judged(payload)


@settings(quick, max_examples=CASES)
@given(st.sampled_from(sorted(GOLDEN)), st.data())
def test_fuzz_changed_messages(name: str, data: st.DataObject) -> None:
    payload = bytearray.fromhex(GOLDEN[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "put"])):
            case "flip":
                payload[at] = data.draw(st.integers(0, 255))
            case "cut":
                del payload[max(1, at) :]
            case "put":
                payload[at:at] = data.draw(st.binary(min_size=1, max_size=4))
    _judged(bytes(payload))


_scalars = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary()
_anything = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.binary(), inner, max_size=4)
)
_names = sorted({each.name for cls in BOTH.values() for each in dataclasses.fields(cls)})


@settings(quick, max_examples=CASES)
@given(st.sampled_from(sorted(BOTH)), st.dictionaries(st.sampled_from(_names), _anything, max_size=8), _anything)
def test_fuzz_values_of_every_type_in_every_field(verb: str, fields: dict[str, Any], other: Any) -> None:
    _judged(msgpack.packb({"verb": verb, "id": 1, **fields}))
    _judged(msgpack.packb({**fields, "verb": verb}))
    _judged(msgpack.packb(other))


# --- errors on the wire ---------------------------------------------------------------------------------------------


def test_an_error_survives_the_journey() -> None:
    error = NotCachedError("none", remedy="Compile it.", reason="absent", key="ab", log_path="/l", log_tail="the end\n")
    failure = m.decode(m.encode(m.Failure.of(error, id=3)), m.REPLIES, strict=True)
    assert isinstance(failure, m.Failure)
    back = failure.error()
    assert (type(back), failure.id, back.message, back.facts()) == (NotCachedError, 3, "none", error.facts())


def test_an_error_kind_of_a_newer_daemon_is_a_plain_error() -> None:
    error = m.Failure(kind="invented-later", message="no").error()
    assert type(error) is JitError


def test_a_log_tail_is_cut_to_what_may_travel_at_a_whole_character() -> None:
    failure = m.Failure.of(CompileError("no", log_tail="é" * m.MAX_LOG_TAIL_BYTES + "x"), id=1)
    assert len(failure.log_tail.encode()) in (m.MAX_LOG_TAIL_BYTES, m.MAX_LOG_TAIL_BYTES - 1)
    assert failure.log_tail.endswith("éx")


def test_paths_that_are_no_text_survive_the_journey() -> None:
    path = os.fsdecode(b"/models/\xff\xfe")
    request = m.JitRequest(config=b"{}", device="cpu", python="python", model_path=path)
    assert m.decode(m.encode(request), m.REQUESTS, strict=True) == request


@pytest.mark.parametrize("id_", [0, 1, 127, 128, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1])
def test_a_frame_with_another_id_is_the_message_with_another_id(id_: int) -> None:
    for message in (m.JitRequest(id=5, config=b"{}", device="cpu", python="p"), m.Result(id=5, path="/p", key="k")):
        table = m.REQUESTS if isinstance(message, m.JitRequest) else m.REPLIES
        wanted = dataclasses.replace(message, id=id_)
        parts = m.cut(m.encode(wanted))
        assert parts is not None
        assert parts[1] == id_
        assert (parts[0], parts[2]) == (m.cut(m.encode(message)) or ())[::2]
        assert m.decode(m.paste(parts[0], id_, parts[2]), table, strict=True) == wanted
        assert m.cut(m.paste(parts[0], id_, parts[2])) == parts


@given(st.binary(max_size=100))
def test_cutting_never_raises(payload: bytes) -> None:
    parts = m.cut(payload)
    assert parts is None or len(parts) == 3
