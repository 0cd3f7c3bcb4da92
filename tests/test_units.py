from __future__ import annotations

import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_the_systemd_unit_verifies(tmp_path):
    unit = (ROOT / "systemd" / "mlc-jitd.service").read_text()
    real = tmp_path / "mlc-jitd.service"
    real.write_text(unit.replace("%h/.local/bin/mlc-jitd", sys.executable))
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", "--man=no", str(real)],
        env={"XDG_RUNTIME_DIR": str(runtime), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "mlc-jitd.service" not in done.stderr, done.stderr


def test_the_launchd_agent_loads_and_has_the_right_shape():
    agent = plistlib.loads((ROOT / "launchd" / "mlc-jitd.plist").read_bytes())
    assert agent["Label"] == "mlc-jitd"
    assert agent["ProgramArguments"][0].startswith("/")
    assert agent["ProgramArguments"][1:] == ["run"]
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
