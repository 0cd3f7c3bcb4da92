from __future__ import annotations

import logging

import pytest

from mlc_jit.errors import RequestError
from mlc_jitd.config import Settings


@pytest.mark.parametrize(("name", "value"), [("JOBS", "two"), ("JOBS", "-1"), ("MAX_QUEUED", "0"), ("JOBS", "1.5")])
def test_a_bad_value_is_named(name, value):
    with pytest.raises(RequestError, match=f"MLC_JITD_{name}='{value}'"):
        Settings.load({f"MLC_JITD_{name}": value})


def test_a_daemon_goes_by_the_default_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        settings = Settings.load({"MLC_JITD_JOBS": "two", "MLC_JITD_DRAIN_SECONDS": "7"}, strict=False)
    assert (settings.jobs, settings.drain_seconds) == (0, 7.0)
    assert "MLC_JITD_JOBS='two'" in caplog.text
