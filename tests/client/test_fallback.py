"""One process instead of a daemon: what its asker waits for, and what not."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from harness.leftovers import until
from mlc_jit import api, fallback
from mlc_jit import messages as m
from mlc_jit.locations import locate

if TYPE_CHECKING:
    from pathlib import Path

    from harness.doubles import Double

TIDIES = f"""#!{sys.executable}
import os, sys, time
os.write(1, bytes.fromhex("{{reply}}"))
while not os.path.exists("{{folder}}/go"):
    time.sleep(0.01)
open("{{folder}}/tidied", "w").close()
"""


def framed(message: m.Message) -> bytes:
    payload = m.encode(message)
    return struct.pack(">I", len(payload)) + payload


def test_who_has_the_answer_does_not_wait_for_the_tidying_and_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = framed(m.Result(id=0, path="/a/library.so", key="ab" * 32))
    once = tmp_path / "once"
    once.write_text(TIDIES.format(reply=reply.hex(), folder=tmp_path))
    once.chmod(0o700)
    monkeypatch.setattr(fallback, "LINGER_SECONDS", 0.01)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(once))
        began = time.monotonic()
        found = fallback.once(m.JitRequest(config=b"{}", device="cpu", python="python"), lambda _: None)
    assert found.path == "/a/library.so"
    assert time.monotonic() - began < fallback.END_SECONDS / 2
    assert not (tmp_path / "tidied").exists()
    (tmp_path / "go").touch()
    until((tmp_path / "tidied").exists, what="the end of the tidying")


@pytest.mark.parametrize("listens", [True, False])
def test_only_who_still_listens_gets_a_lease(double: Double, listens: bool) -> None:
    """Else the parent of ``once`` is whoever adopted it: init, which never ends."""
    request = api.make_request(double.model(), {}, "cpu", None, policy="ON")
    fallback.once(request, lambda _: None)
    leases = locate().leases
    for lease in leases.iterdir():
        lease.unlink()
    command = [sys.executable, "-P", "-m", "mlc_jitd", "once"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(framed(request))
        process.stdin.flush()
        if not listens:
            process.stdin.close()
        size = struct.unpack(">I", process.stdout.read(4))[0]
        answer = m.decode(process.stdout.read(size), m.REPLIES, strict=True)
        assert isinstance(answer, m.Result)
        assert (len(list(leases.iterdir())) == 1) is listens
