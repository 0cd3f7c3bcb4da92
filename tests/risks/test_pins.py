"""Pins and pre-warmed questions: what is kept is there at the next start, whatever its folder did meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import daemons
from harness.daemons import status
from harness.leftovers import until
from harness.watching import CONFIG, Listener, edit, folder, settle
from mlc_jit import jit

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.daemons import Clients, Daemon, Place
    from harness.doubles import Double

    Run = Callable[..., subprocess.CompletedProcess[str]]


def pins(place: Place) -> dict[str, str]:
    """What is pinned, as the collector hears it."""
    from mlc_jitd.asks import Asks

    return Asks(place.library).pinned()


def key_of(library: str) -> str:
    return Path(library).name[:64]


def said(run: subprocess.CompletedProcess[str]) -> Any:
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_pinned_model_whose_config_changed_is_a_hit_at_its_next_start(
    daemon: Daemon, double: Double, mlc_jit: Run, place: Place, client: Clients
) -> None:
    model = double.model()
    (row,) = said(mlc_jit("pin", model, "--device", "cpu", "--json"))
    settle(model)
    assert list(pins(place)) == [row["key"]]
    with Listener(daemon) as heard:
        edit(model, vocab_size=600)
        ready = heard.wait("ready")
        assert list(pins(place)) == [ready.key] != [row["key"]]
        compiled = status().counters["compiles"]
        assert key_of(client.ask(model).path()) == ready.key
        assert status().counters["compiles"] == compiled == 2
        assert len(double.starts()) == 2


def test_a_change_while_no_daemon_runs_is_made_good_at_its_start(
    start_daemon: Callable[..., Daemon], double: Double, mlc_jit: Run, place: Place
) -> None:
    model = double.model()
    first = start_daemon()
    said(mlc_jit("prewarm", model, "--device", "cpu", "--json"))
    settle(model)
    first.kill()
    edit(model, vocab_size=600)
    start_daemon()
    until(lambda: len(double.ends()) == 2 and status().counters.get("compiles") == 1, what="the new config compiled")
    library = jit(model, {}, "cpu").model_lib_path
    assert len(double.starts()) == 2
    assert pins(place) == {}  # pre-warmed only
    assert getattr(folder(model), "keep", "") == "prewarm"
    assert Path(library).exists()


def test_an_entry_that_went_missing_is_made_again_at_the_start(
    start_daemon: Callable[..., Daemon], double: Double, mlc_jit: Run, place: Place
) -> None:
    model = double.model()
    first = start_daemon()
    (row,) = said(mlc_jit("pin", model, "--device", "cpu", "--json"))
    settle(model)
    assert first.stop() == 0
    (place.library / f"{row['key']}.json").unlink()
    start_daemon()
    until((place.library / f"{row['key']}.json").exists, what="the entry to be there again")


def test_a_config_that_does_not_compile_keeps_the_old_pin(
    daemon: Daemon, double: Double, mlc_jit: Run, place: Place
) -> None:
    model = double.model()
    (row,) = said(mlc_jit("pin", model, "--device", "cpu", "--json"))
    settle(model)
    with Listener(daemon) as heard:
        (model / CONFIG).write_bytes(double.module.config({"raise": "no such layer"}))
        assert "no such layer" in heard.wait("failed").detail
        assert list(pins(place)) == [row["key"]]
        (model / CONFIG).write_bytes(double.module.config(vocab_size=600))
        heard.wait("ready")
        until(lambda: list(pins(place)) != [row["key"]], what="the pin to move")


@pytest.mark.timeout(60)
def test_without_a_daemon(double: Double, mlc_jit: Run, place: Place) -> None:
    model = double.model()
    rows = said(mlc_jit("prewarm", model, "--device", "cpu", "--no-daemon", "--json", limit=40))
    again = said(mlc_jit("prewarm", model, "--device", "cpu", "--no-daemon", "--json", limit=40))
    assert (rows[0]["source"], again[0]["source"]) == ("compiled", "hit")
    assert place.daemons() == []
    key = rows[0]["key"]
    assert said(mlc_jit("pin", key[:12], "--json")) == [{"what": key[:12], "key": key}]
    assert list(pins(place)) == [key]
    assert said(mlc_jit("unpin", key[:12], "--json"))[0]["keys"] == [key]
    assert pins(place) == {}
    assert place.daemons() == []
    nothing = mlc_jit("unpin", model.with_name("never"))
    assert (nothing.returncode, "Nothing of" in nothing.stdout) == (0, True)


def test_the_value_of_a_variable_that_only_its_user_named_is_on_disk_while_it_is_pinned(
    daemon: Daemon, double: Double, mlc_jit: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLC_JITD_PASS_ENV", os.environ["MLC_JITD_PASS_ENV"] + ",HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    def holding() -> list[str]:
        files = [each for each in place.cache.rglob("*") if each.is_file()]
        return [each.parent.name for each in files if b"hf_secret" in each.read_bytes()]

    model = double.model()
    jit(model, {}, "cpu")
    settle(model)
    assert holding() == []
    said(mlc_jit("pin", model, "--device", "cpu", "--json"))
    assert holding() == [".asks"]
    said(mlc_jit("unpin", model, "--json"))
    assert holding() == []


def test_pins_are_shown(daemon: Daemon, double: Double, mlc_jit: Run) -> None:
    model, gone = double.model(), double.model("gone", vocab_size=700)
    jit(gone, {}, "cpu")
    settle(gone)
    (gone / CONFIG).unlink()
    settle(gone, "gone")
    done = mlc_jit("pin", model, "--device", "cpu")
    assert (done.returncode, done.stdout.startswith("Pinned ")) == (0, True)
    table = mlc_jit("list").stdout.splitlines()
    assert "KEPT" in table[0]
    assert sorted(line.split()[-1] for line in table[1:]) == ["pinned", "stale"]
    rows = said(mlc_jit("list", "--json"))
    assert {bool(row["pinned"]) for row in rows} == {True, False}
    settle(model)
    assert "models  1 watched by events, 1 gone; 1 kept" in mlc_jit("status").stdout
    assert said(mlc_jit("status", "--json"))["folders"][1]["keep"] == "pin"


def test_a_key_that_is_none(daemon: Daemon, mlc_jit: Run) -> None:
    missing = mlc_jit("pin", "abcdef")
    assert (missing.returncode, "no library has a key" in missing.stderr.lower()) == (2, True)
    assert mlc_jit("unpin", "abcdef").returncode == 2


@pytest.mark.timeout(60)
def test_a_list_from_the_start(start_daemon: Callable[..., Daemon], double: Double, place: Place, mlc_jit: Run) -> None:
    one, two = double.model("one"), double.model("two", vocab_size=700)
    listed = place.root / "list.toml"
    listed.write_text(f"""
        device = "cpu"
        [[prewarm]]
        model = ["{one}", "{two.relative_to(place.root)}"]
        [[prewarm]]
        model = "{one}"
        device = {{ kind = "cuda", arch = "sm_90" }}
        overrides = [{{ max_batch_size = 2 }}, {{ max_batch_size = 4 }}]
        pin = true
        [[prewarm]]
        model = "{place.root}/missing"
    """)
    first = start_daemon(MLC_JITD_PREWARM=str(listed))
    until(lambda: status().counters.get("compiles", 0) == 4, what="four compiles")
    until(lambda: len(pins(place)) == 2, what="two pins")
    assert status().counters["watch_prewarm_failures"] == 1
    jit(one, {}, "cpu")
    assert first.stop() == 0
    second = start_daemon(MLC_JITD_PREWARM=str(listed))
    until(lambda: status().counters.get("hits", 0) >= 4, what="hits alone")
    done = mlc_jit("prewarm", listed, "--json", "--quiet")
    assert done.returncode == 2  # one folder is missing
    assert [row.get("source") for row in json.loads(done.stdout)] == ["hit"] * 4 + [None]
    assert len(double.starts()) == 4
    assert second.stop() == 0


def test_a_list_of_which_something_fails(daemon: Daemon, double: Double, mlc_jit: Run, place: Place) -> None:
    good, bad = double.model("good"), double.model("bad", told={"raise": "no such layer"})
    listed = place.root / "list.toml"
    listed.write_text(f'[[prewarm]]\nmodel = ["{bad}", "{good}"]\ndevice = "cpu"\n')
    done = mlc_jit("prewarm", listed)
    assert done.returncode == 1
    assert "bad cpu: The compile failed: " in done.stderr
    assert "0 cached, 1 compiled, 1 failed" in done.stdout
    assert mlc_jit("prewarm", listed, "--device", "cpu").returncode == 2  # the list says which
    listed.write_text(f'[[prewarm]]\nmodle = "{good}"\n')
    done = mlc_jit("prewarm", listed)
    assert (done.returncode, "Did you mean `model`?" in done.stderr) == (2, True)


def test_what_happens_is_told_line_by_line(daemon: Daemon, double: Double) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-P", "-m", "mlc_jit", "watch", "--json"], stdout=subprocess.PIPE, text=True, cwd="/"
    )
    with watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["what"] == "watching"
        jit(double.model(), {}, "cpu")
        assert json.loads(watching.stdout.readline())["what"] == "compiled"
        assert daemon.stop() == 0
        rest = [json.loads(line)["what"] for line in watching.stdout]
    assert (watching.returncode, rest[-1]) == (0, "ended")


def test_a_listener_hears_of_a_daemon_that_was_killed(daemon: Daemon, place: Place) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-P", "-m", "mlc_jit", "watch"], stdout=subprocess.PIPE, text=True, cwd="/"
    )
    with watching:
        assert watching.stdout is not None
        assert "watching" in watching.stdout.readline()
        daemon.kill()
        place.stale_sockets = True
        assert watching.wait(40) == 0


def test_listeners_that_leave_are_forgotten(daemon: Daemon) -> None:
    from mlc_jit import watching

    listeners = [watching.watch() for _ in range(5)]
    assert [next(each).what for each in listeners] == ["watching"] * 5
    assert status().counters["watch_listeners"] == 5
    for each in listeners:
        each.close()
    until(lambda: status().counters["watch_listeners"] == 0, what="the listeners to be forgotten")


def test_no_daemon_to_watch(mlc_jit: Run) -> None:
    assert mlc_jit("watch").returncode == 3


UNSHARED = ["unshare", "-U", "-r", "sh", "-c"]


def may_unshare() -> bool:
    try:
        limit = "echo 20 > /proc/sys/user/max_inotify_watches"
        return subprocess.run([*UNSHARED, limit], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.timeout(60)
@pytest.mark.skipif(not may_unshare(), reason="no user namespace can be made here, so no limit be set")
def test_more_folders_than_inotify_allows(place: Place, ended: None, double: Double) -> None:
    """Some are watched by events, the others are polled, each change is noticed, and `status` says why."""
    models = [double.model(f"m{number}", vocab_size=1000 + number) for number in range(30)]
    log = place.root / "daemon.log"
    command = "echo 20 > /proc/sys/user/max_inotify_watches; exec " + f"{sys.executable} -P -m mlc_jitd run"
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("wb"))
        process = stack.enter_context(
            subprocess.Popen([*UNSHARED, command], stdin=subprocess.DEVNULL, stderr=sink, cwd="/")
        )
        stack.callback(place.end_daemons)
        until(
            lambda: b" serves " in log.read_bytes(), what="the daemon"
        )  # its path is there a moment before it listens
        with Listener(daemons.Daemon(process, log)) as heard:
            before = [jit(model, {}, "cpu").model_lib_path for model in models]
            until(lambda: {each.watched for each in status().folders} == {"events", "polling"}, what="both manners")
            assert "watch limit" in next(each.why for each in status().folders if each.watched == "polling")
            assert status().counters["watch_events_on"] <= 20
            for number, model in enumerate(models[::5]):  # of both kinds
                edit(model, vocab_size=2000 + number)
            after = [jit(model, {}, "cpu").model_lib_path for model in models]
            assert [old != new for old, new in zip(before, after, strict=True)] == [True, *[False] * 4] * 6
            heard.wait("stale", 6)
