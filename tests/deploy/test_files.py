"""The deployment files are consistent and secure. The tests need no container engine."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasChoices

from tests.support.compose import COMPOSE_FILE, EXAMPLE, assignments, load, raw, variables
from worker.clusters.profiles import LocalCluster
from worker.settings import PROJECT_ROOT, Settings

PASSWORDS = {"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r"}
SERVICES = raw()["services"]
each_service = pytest.mark.parametrize("name", SERVICES)


def settings_names() -> set[str]:
    fields = Settings.model_fields.items()
    aliases = [field.validation_alias for _, field in fields]
    named = {str(name) for alias in aliases if isinstance(alias, AliasChoices) for name in alias.choices}
    return {f"SFT_{name.upper()}" for name, _ in fields} | named


def test_the_file_conforms_to_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(COMPOSE_FILE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_variable_for_the_service_is_a_setting() -> None:
    ours = {name for name in ("migrate", "api", "worker", "beat") for name in SERVICES[name]["environment"]}
    assert {"DATABASE_URL", "REDIS_URL", "SFT_DATA_DIR"} <= ours <= settings_names()


def test_every_variable_is_documented_and_every_documented_one_is_used() -> None:
    used = {match[2] for match in variables(raw())}
    passed_on = {
        name
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if value is None
    }
    assert used | passed_on == set(assignments(EXAMPLE, commented=True))
    defaults = {match[2]: match[4] for match in variables(raw()) if match[3] == ":-"}
    assert defaults.items() <= assignments(EXAMPLE).items()


@pytest.mark.parametrize("missing", PASSWORDS)
def test_no_password_has_a_default(missing: str) -> None:
    with pytest.raises(KeyError, match=f"{missing}.*env.example"):
        load({**PASSWORDS, missing: ""})
    assert assignments(EXAMPLE)[missing] == ""
    secret = [match for match in variables(raw()) if "PASSWORD" in match[2]]
    assert {match[2] for match in secret} == set(PASSWORDS)
    assert {match[3] for match in secret} == {":?"}


def test_the_password_of_the_broker_is_not_in_its_command() -> None:
    document = load({**PASSWORDS, "REDIS_PASSWORD": "hunter2"})
    assert "hunter2" not in str(document["services"]["redis"]["command"])
    assert "hunter2" in str(document["services"]["redis"]["environment"])


@each_service
def test_each_service_has_restart_and_health_check(name: str) -> None:
    service = SERVICES[name]
    if service["restart"] == "no":
        assert service["healthcheck"] == {"disable": True}
        waiting = {other for other in SERVICES if name in SERVICES[other].get("depends_on", {})}
        conditions = {SERVICES[other]["depends_on"][name]["condition"] for other in waiting}
        assert conditions == {"service_completed_successfully"}
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert {"interval", "timeout", "retries"} <= set(service["healthcheck"])


@each_service
def test_each_service_has_minimal_privileges(name: str) -> None:
    service = SERVICES[name]
    assert str(service["user"]).partition(":")[0] not in ("", "0", "root")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service)
    assert "docker.sock" not in str(service)


def test_only_the_api_is_published_and_only_on_this_machine() -> None:
    published = {
        name: service["ports"] for name, service in load(PASSWORDS)["services"].items() if "ports" in service
    }
    assert published == {"api": ["127.0.0.1:8000:8000"]}
    inside = {name for name, service in SERVICES.items() if service["networks"] == ["inside"]}
    assert inside == {"postgres", "redis"}
    assert raw()["networks"]["inside"]["internal"] is True


def test_services_depend_on_the_right_conditions() -> None:
    for name in ("api", "worker", "beat"):
        assert SERVICES[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "postgres": {"condition": "service_healthy"},
            "redis": {"condition": "service_healthy"},
        }


def test_the_example_profiles_are_profiles() -> None:
    tables = tomllib.loads((PROJECT_ROOT / "clusters.example.toml").read_text())
    assert set(tables) == {"local"}
    assert all(LocalCluster(name=name, **table).roots for name, table in tables.items())


# -- images ----------------------------------------------------------------------------------------


def instructions(name: str) -> list[list[str]]:
    text = (PROJECT_ROOT / name).read_text().replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.trainer"])
def test_images_do_not_run_as_root(name: str) -> None:
    (user,) = [line[1] for line in instructions(name) if line[0] == "USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    if name == "Dockerfile":
        assert {SERVICES[one]["user"] for one in ("migrate", "api", "worker", "beat")} == {user}


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.trainer"])
def test_copied_paths_exist_and_are_in_the_build_context(name: str) -> None:
    sent = {line[1:] for line in (PROJECT_ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    copies = [line[1:-1] for line in instructions(name) if line[0] == "COPY" and "--from=build" not in line]
    sources = [source for sources in copies for source in sources]
    assert sources
    for source in sources:
        assert (PROJECT_ROOT / source).exists()
        assert source.partition("/")[0] in sent
    assert not sent & {".", ".git", ".env", "clusters.toml", "tests", "demo"}


def pins(name: str) -> dict[str, str]:
    lines = (PROJECT_ROOT / "requirements" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_image_has_the_tested_versions_and_no_development_tools() -> None:
    runtime = pins("runtime.txt")
    assert runtime.items() <= pins("service.txt").items()
    project: dict[str, Any] = tomllib.loads(Path(PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[\[>=<]", line)[0] for line in project["dependencies"]}
    tools = {re.split(r"[\[>=<]", line)[0].lower() for line in project["optional-dependencies"]["dev"]}
    assert wanted <= set(runtime)
    assert not tools & set(runtime)


def test_the_image_has_everything_that_its_processes_import() -> None:
    modules = "api.app, cli.main, worker.tasks, kombu.transport.redis, psycopg, celery.bin.celery"
    program = f"import sys, {modules}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    origins = packages_distributions()
    imported = {origins[name][0].lower().replace("_", "-") for name in done.stdout.split() if name in origins}
    # The project itself, and optional packages of rich.
    assert imported - {"sft-service", "attrs"} <= set(pins("runtime.txt"))
