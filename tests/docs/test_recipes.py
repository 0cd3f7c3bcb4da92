"""The recipes for containers fit the formats that they are written in, and each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import yaml

RECIPES = Path(__file__).parents[2] / "examples" / "containers"
KUBERNETES = "1.37"


def compose() -> str:
    return (RECIPES / "compose.yaml").read_text()


def objects() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((RECIPES / "daemonset.yaml").read_text()))


def test_the_compose_file_fits_the_specification() -> None:
    found = compose_spec.PyCompose.from_yaml(compose())
    found.validate()
    assert set(found.service_names()) == {"mlc-jitd", "serve"}


@pytest.mark.parametrize(("right", "wrong"), [("stop_grace_period", "stop_grace"), ("service_healthy", "healthy")])
def test_that_check_catches_slips_in_the_compose_file(right: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        compose_spec.PyCompose.from_yaml(compose().replace(right, wrong))


@pytest.mark.parametrize("thing", objects(), ids=lambda thing: thing["kind"])
def test_the_kubernetes_objects_fit_their_schemas(thing: dict[str, Any]) -> None:
    kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    thing["spec"]["templat"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)


def test_who_serves_mounts_what_the_daemon_has() -> None:
    services = yaml.safe_load(compose())["services"]
    theirs = [{part.split(":")[1] for part in services[name]["volumes"]} for name in ("mlc-jitd", "serve")]
    daemon, serve = (each["spec"]["template"]["spec"] for each in objects())
    for spec in (daemon, serve):
        theirs.append({mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]})
        assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} == {
            v["name"] for v in spec["volumes"]
        }
    assert all({"/cache", "/run/mlc"} <= each for each in theirs)
    image = (RECIPES / "Dockerfile").read_text()
    assert re.search(r"MLC_LLM_HOME=/cache MLC_JITD_RUNTIME_DIR=/run/mlc/\w+", image), "a folder inside the volume"
    grace = int(re.search(r"stop_grace_period: (\d+)s", compose())[1])  # type: ignore[index]
    assert min(grace, daemon["terminationGracePeriodSeconds"]) > 60
