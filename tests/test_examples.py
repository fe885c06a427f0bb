"""What the README says can be done."""

import json
import re
from pathlib import Path

import pytest

from tests.support.service import Service
from tests.support.trainer_runs import PROJECT

pytestmark = pytest.mark.slow

README = (PROJECT / "README.md").read_text()
EXAMPLES = sorted((PROJECT / "tests" / "examples").glob("*.json"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_planned_accepted_and_run(service: Service, body: object, path: Path) -> None:
    text = path.read_text().replace("INPUTS", str(service.data_dir / "inputs"))
    plan = service.client.post("/v1/jobs:plan", json=json.loads(text))
    assert (plan.status_code, plan.json()["ok"]) == (200, True), plan.text
    job = service.submit(json.loads(text))
    assert service.wait_for(job["id"])["state"] == "SUCCEEDED"


def test_the_tour_names_bodies_and_routes_that_exist(service: Service) -> None:
    bodies = set(re.findall(r"^ +body ([a-z-]+)", README, re.M))
    assert bodies <= {path.stem for path in EXAMPLES}
    routes = service.client.get("/openapi.json").json()["paths"]
    patterns = [re.sub(r"\{\w+\}", "[^/]+", route.replace("{path}", ".+")) for route in routes]
    named = {re.split(r"[?\s\"]", url)[0] for url in re.findall(r"\$API(/\S+)", README)}
    assert len(named) > 10
    for url in named:
        assert any(re.fullmatch(pattern, url) for pattern in patterns), url


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (PROJECT / target).exists(), target
