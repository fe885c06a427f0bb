"""Plain HTTP with the Lepton server."""

from typing import Any, Self

import httpx2

from tests.support.lepton.server.server import LeptonServer
from tests.support.lepton.server.workspace import ServerJob
from tests.support.waiting import wait_until


class Client:
    """Plain HTTP with the server."""

    def __init__(self, server: LeptonServer) -> None:
        self.server = server
        self.http = httpx2.Client(timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.server.token}"}
        return self.http.request(method, self.server.url + path, headers=headers, **more)

    def get(self, path: str, **query: Any) -> Any:
        answer = self.ask("GET", path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def create(self, job_id: str, script: str = "true", **spec: Any) -> ServerJob:
        """Create a job that runs a shell script; return the server's job."""
        answer = self.ask("POST", "/jobs", json=job_body(job_id, script, **spec))
        assert answer.status_code == 201, answer.text
        return self.server.workspace.job(job_id)

    def state(self, job_id: str) -> str:
        found: str = self.get(f"/jobs/{job_id}")["status"]["state"]
        return found

    def wait_for(self, job_id: str, state: str) -> None:
        wait_until(lambda: self.state(job_id) == state, what=f"{job_id} {state}")

    def patch(self, job_id: str, *, stopped: bool) -> None:
        assert self.ask("PATCH", f"/jobs/{job_id}", json={"spec": {"stopped": stopped}}).status_code == 200

    def lines(self, job_id: str, **query: Any) -> list[tuple[str, int, str]]:
        """Return (replica, time, text) in the order of the log history."""
        query = {"job": job_id, "start": 1, "end": 1 << 62, "limit": 5000, "direction": "forward", **query}
        streams = self.get("/logs", **query)["data"]["result"]
        return [(one["stream"]["replica"], int(at), text) for one in streams for at, text in one["values"]]

    def wait_for_lines(self, job_id: str, count: int) -> list[tuple[str, int, str]]:
        wait_until(lambda: len(self.lines(job_id)) >= count, what=f"{count} lines")
        return self.lines(job_id)


def job_body(job_id: str, script: str = "true", **spec: Any) -> dict[str, Any]:
    container = {"image": "any", "command": ["/bin/bash", "-c", script]}
    return {"metadata": {"id": job_id}, "spec": {"container": container, **spec}}
