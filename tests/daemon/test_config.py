"""Settings: one source, four origins, and what a slip in each of them does."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import signal
from pathlib import Path

import pytest

from harness.daemons import until
from mlc_jit.errors import RequestError
from mlc_jitd import sources, values
from mlc_jitd.config import Settings, gather
from mlc_jitd.reload import Reload
from mlc_jitd.upkeep.config import markdown

ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The host's file and the user's, both to be written yet, and an environment that leads to them."""
    monkeypatch.setattr(sources, "HOST_FILE", tmp_path / "host.toml")
    user = tmp_path / "home" / "mlc-jitd" / "config.toml"
    user.parent.mkdir(parents=True)
    return tmp_path / "host.toml", user, {"XDG_CONFIG_HOME": str(tmp_path / "home")}


@pytest.mark.parametrize(("name", "value"), [("JOBS", "two"), ("JOBS", "-1"), ("MAX_QUEUED", "0"), ("JOBS", "1.5")])
def test_a_bad_value_is_named(name, value):
    with pytest.raises(RequestError, match=f"MLC_JITD_{name}='{value}'"):
        Settings.load({f"MLC_JITD_{name}": value})


def test_a_daemon_goes_by_the_default_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        settings = Settings.load({"MLC_JITD_JOBS": "two", "MLC_JITD_DRAIN_SECONDS": "7"}, strict=False)
    assert (settings.jobs, settings.drain_seconds) == (0, 7.0)
    assert "MLC_JITD_JOBS='two'" in caplog.text


def test_a_flag_beats_a_variable_beats_the_users_file_beats_the_hosts(files):
    host, user, env = files
    host.write_text("jobs = 1\nmax_queued = 1\ndrain_seconds = 1\nwarm = 1\n")
    user.write_text("jobs = 2\nmax_queued = 2\ndrain_seconds = 2.5\n")
    found = gather({**env, "MLC_JITD_JOBS": "3", "MLC_JITD_MAX_QUEUED": "3"}, flags={"jobs": "4"})
    assert found.slips == ()
    assert (found.settings.jobs, found.settings.max_queued) == (4, 3)
    assert (found.settings.drain_seconds, found.settings.warm) == (2.5, 1)
    origins = {each.name: (each.origin, each.source) for each in found.values}
    assert origins["jobs"] == ("flag", "--jobs")
    assert origins["max_queued"] == ("variable", "MLC_JITD_MAX_QUEUED")
    assert origins["drain_seconds"] == ("file", str(user))
    assert origins["warm"] == ("file", str(host))
    assert origins["cgroup"] == ("default", "")
    assert found.files == ((host, True), (user, True))


@pytest.mark.parametrize("which", [0, 1])
def test_what_only_one_daemon_can_be_is_no_matter_of_a_file_that_several_read(files, tmp_path, which):
    """Else a line in the host's file would turn every user's daemon into the host's, which none of them can be."""
    env = files[2]
    files[which].write_text('mode = "system"\njobs = 3\n')
    found = gather(env)
    assert (found.settings.mode, found.settings.jobs) == ("user", 3)
    (slip,) = found.in_files
    assert f"`mode` in {files[which]} does not count" in slip.message
    assert "--mode or MLC_JITD_MODE" in slip.remedy
    with pytest.raises(RequestError, match="does not count"):
        Settings.load({**env, "MLC_JITD_MODE": "system"})
    (tmp_path / "its own.toml").write_text('mode = "system"\n')
    assert Settings.load({**env, "MLC_JITD_CONFIG": str(tmp_path / "its own.toml")}).mode == "system"


def test_one_file_may_be_named_instead_of_both(files, tmp_path):
    host, user, env = files
    host.write_text("jobs = 1\n")
    user.write_text("warm = 1\n")
    named = tmp_path / "named.toml"
    named.write_text("max_queued = 7\n")
    settings = Settings.load({**env, "MLC_JITD_CONFIG": str(named)})
    assert settings == Settings(max_queued=7)
    with pytest.raises(RequestError, match="MLC_JITD_CONFIG=/nowhere: No such file"):
        Settings.load({**env, "MLC_JITD_CONFIG": "/nowhere"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_queue = 7", "Did you mean `max_queued`"),
        ("colour = 7", "`mlc-jit config` lists all"),
        ("jobs = 'two'", "`jobs = two` in .* must be a whole number of at least 0"),
        ("jobs = -1", "`jobs = -1` in .* must be"),
        ("jobs = {a = 1}", "`jobs` in .* is a dict"),
        ("jobs = 1\njobs = 2", "is no TOML"),
        ("cgroup = ['a']", "must be `auto`, `own`, `off` or absolute paths"),
    ],
)
def test_a_slip_in_a_file_is_named_and_the_rest_serves(files, text, said):
    host, user, env = files
    host.write_text("warm = 1\n")
    user.write_text(text)
    found = gather(env)
    (slip,) = found.slips
    with pytest.raises(RequestError, match=said):
        raise slip
    assert str(user) in str(slip)
    assert found.settings == Settings(warm=1)


def test_a_misspelt_variable_is_a_slip_and_a_strange_one_is_not():
    (slip,) = gather({"MLC_JITD_MAX_QUEUE": "1", "MLC_JITD_SOMETHING_NEW": "1", "MLC_JITD_JOB": "x"}).slips
    assert "MLC_JITD_MAX_QUEUE is no setting" in str(slip)
    assert "MLC_JITD_MAX_QUEUED" in str(slip)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + " GiB", "9000000 TiB"])
@pytest.mark.parametrize("name", ["MLC_JITD_MAX_SIZE", "MLC_JITD_JOBS"])
def test_a_number_beyond_all_bounds_is_a_slip_like_any_other(name, text):
    (slip,) = gather({name: text}).slips
    assert name in slip.message


def test_a_reload_is_refused_for_a_slip_in_a_file_alone(files, caplog):
    _, user, env = files
    env["MLC_JITD_SILENCE_SECOND"] = "5"  # a client's, passed over since the start
    user.write_text("jobs = 1\n")
    taken = []
    reload = Reload(gather(env).settings, lambda: gather(env), {"jobs": lambda new: taken.append(new.jobs)})
    user.write_text("jobs = 3\n")
    reload()
    assert taken == [3]
    assert "MLC_JITD_SILENCE_SECOND is no setting. It is passed over." in caplog.text
    user.write_text("jobs = 4\nwarm = 'perhaps'\n")
    reload()
    assert taken == [3]


def test_a_relative_config_home_counts_for_nothing():
    assert sources.files_of({"XDG_CONFIG_HOME": "here", "HOME": "/h"})[1] == Path("/h/.config/mlc-jitd/config.toml")


def test_no_variable_of_the_clients_is_taken_for_a_misspelt_setting():
    names = set(re.findall(r"\bMLC_JITD_[A-Z_]+[A-Z]", (ROOT / "docs" / "variables.md").read_text())) - {sources.CONFIG}
    assert "MLC_JITD_SOCKET" in names
    slips = gather(dict.fromkeys(names, "1")).slips
    assert [slip.message for slip in slips if "is no setting" in slip.message] == [], "add it to NOT_SETTINGS"


@pytest.mark.parametrize(
    ("toml", "value"), [("warm = 'off'", 0), ("warm = false", 0), ("warm = true", 2), ("warm = 5", 5)]
)
def test_words_for_numbers(files, toml, value):
    files[1].write_text(toml)
    assert Settings.load(files[2]).warm == value


def test_kinds_of_values():
    assert [values.SIZE.read(text) for text in ("1048576", "1 MiB", "1M", "0.5 GiB", "2 kib")] == [
        1 << 20, 1 << 20, 1 << 20, 1 << 29, 2048,
    ]  # fmt: skip
    assert [values.SIZE.show(count) for count in (0, 1000, 1 << 20, 20 << 30)] == ["0", "1000", "1 MiB", "20 GiB"]
    assert [values.SWITCH.read(text) for text in ("on", "0", "No", "true")] == [True, False, False, True]
    for kind, text in ((values.SIZE, "much"), (values.SWITCH, "perhaps"), (values.number(float, 0), "inf")):
        with pytest.raises(ValueError, match=r"^(a |`on`)"):
            kind.read(text)


def test_every_setting_reads_what_it_shows():
    for each in dataclasses.fields(Settings):
        kind = each.metadata["kind"]
        assert kind.read(kind.show(each.default)) == each.default, each.name
        assert each.metadata["meaning"].strip(), each.name
        assert not each.metadata["page"] or (ROOT / "docs" / each.metadata["page"].partition("#")[0]).exists()


def test_the_page_has_the_table_that_the_settings_make():
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert markdown() in page, "run `make docs`, which writes the table of docs/configuration.md anew"


# --- the commands ---------------------------------------------------------------------------------------------------


def test_the_command_shows_value_origin_and_meaning(mlc_jit, place):
    place.config.write_text("drain_seconds = 5\n")
    done = mlc_jit("config", "--json", MLC_JITD_JOBS="3")
    assert done.returncode == 0, done.stderr
    found = {each["name"]: each for each in json.loads(done.stdout)["settings"]}
    assert (found["jobs"]["value"], found["jobs"]["source"]) == (3, "MLC_JITD_JOBS")
    assert (found["drain_seconds"]["value"], found["drain_seconds"]["source"]) == (5.0, str(place.config))
    assert found["max_queued"]["origin"] == "default"
    shown = mlc_jit("config", MLC_JITD_JOBS="3", COLUMNS="80").stdout
    assert "from MLC_JITD_JOBS" in shown
    assert "compiles at a time" in shown
    assert max(map(len, shown.splitlines())) <= max(80, *(len(str(path)) + 10 for path in [place.config]))
    assert place.daemons() == []


def test_the_command_fails_on_a_slip_and_still_shows_all(mlc_jit, place):
    place.config.write_text("max_queue = 5\n")
    done = mlc_jit("config")
    assert done.returncode == 2
    assert "Did you mean `max_queued`" in done.stderr
    assert "max_queued = 256" in done.stdout


def test_a_wrong_flag_is_refused(capsys):
    from mlc_jitd.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(["run", "--jobs", "many"])
    assert ended.value.code == 2
    assert "'many' must be a whole number" in capsys.readouterr().err


# --- a daemon that runs ---------------------------------------------------------------------------------------------


def test_every_live_setting_is_taken_by_somebody():
    from mlc_jitd import app
    from mlc_jitd.system import System

    live = {each.name for each in dataclasses.fields(Settings) if each.metadata["live"]}
    assert live == {*app._takers(*[None] * 4, keeper=None, idle=None), *System._takers(None)}


def test_sighup_changes_what_can_change_and_names_the_rest(start_daemon, place, double, client):
    from mlc_jit import jit
    from mlc_jit.errors import CompileError

    daemon = start_daemon()
    place.config.write_text("backoff_seconds = 60\nwarm_idle_seconds = 5\n")
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: "warm_idle_seconds stays 600" in daemon.log.read_text())
    assert "backoff_seconds: 60.0, was 5.0" in daemon.log.read_text()
    place.config.write_text("backoff_seconds = 0\njob = 5\n")
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: "the settings stay as they were" in daemon.log.read_text())
    assert "Did you mean `jobs`" in daemon.log.read_text()
    model = double.model(told={"exit": 1})
    for _ in range(2):
        with pytest.raises(CompileError):
            jit(model, {}, "cpu")
    assert len(double.starts()) == 1, "the failure is remembered"
    place.config.write_text("backoff_seconds = 0\n")
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: "backoff_seconds: 0.0, was 60.0" in daemon.log.read_text())
    double.model(told={"exit": 1})
    assert daemon.stop() == 0
