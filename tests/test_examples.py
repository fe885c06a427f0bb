"""Examples, links and lists in the README and docs/."""

import json
import re
from pathlib import Path

import pytest

from tests.support.service import Service
from tests.support.trainer_runs import PROJECT
from worker.settings import Settings

pytestmark = pytest.mark.slow

PAGES = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").rglob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
README_MAX_LINES = 200
EXAMPLES = sorted((PROJECT / "tests" / "examples").glob("*.json"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_planned_accepted_and_run(service: Service, body: object, path: Path) -> None:
    text = path.read_text().replace("INPUTS", str(service.data_dir / "inputs"))
    plan = service.client.post("/v1/jobs:plan", json=json.loads(text))
    assert (plan.status_code, plan.json()["ok"]) == (200, True), plan.text
    job = service.submit(json.loads(text))
    assert service.wait_for(job["id"])["state"] == "SUCCEEDED"


def test_the_tour_names_bodies_and_routes_that_exist(service: Service) -> None:
    bodies = set(re.findall(r"^ +(?:\w+=\$\()?body ([a-z-]+)", TEXT, re.M))
    assert bodies <= {path.stem for path in EXAMPLES}
    routes = service.client.get("/openapi.json").json()["paths"]
    patterns = [re.sub(r"\{\w+\}", "[^/]+", route.replace("{path}", ".+")) for route in routes]
    named = {re.split(r"[?\s\"]", url)[0] for url in re.findall(r"\$API(/\S+)", TEXT)}
    assert len(named) > 10
    for url in named:
        assert any(re.fullmatch(pattern, url) for pattern in patterns), url


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_resolve(page: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#:]*)(#([^):]+))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub generates for a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_lists_every_page() -> None:
    readme = (PROJECT / "README.md").read_text()
    assert len(readme.splitlines()) < README_MAX_LINES
    for page in (PROJECT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in readme


def test_every_setting_is_listed() -> None:
    page = (PROJECT / "docs" / "operations.md").read_text()
    missing = [name for name in Settings.model_fields if f"{name.upper()}`" not in page]
    assert not missing
