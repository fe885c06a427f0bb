"""Follow a job over HTTP: a progress bar, and selected lines of its log."""

import re
from typing import Any

import httpx2
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

SHOWN = re.compile(r"^ ?\[\d{4}-.*iteration|validation loss at iteration|successfully saved checkpoint")


def follow(client: httpx2.Client, job_id: str, console: Console) -> dict[str, Any]:
    """Show a job until it has ended. Returns the job's final state."""
    columns = (
        TextColumn("[bold]{task.fields[state]:<11}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.fields[steps]} {task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(job_id, state="", steps="?", figures="")
        log = _Log(client, job_id)
        etag = ""
        while True:
            response = client.get(
                f"/v1/jobs/{job_id}", params={"wait": "2s"}, headers={"If-None-Match": etag} if etag else {}
            )
            for line in log.new_lines():
                progress.console.print(line, style="dim", markup=False)
            if response.status_code == httpx2.codes.NOT_MODIFIED:
                continue
            response.raise_for_status()
            job: dict[str, Any] = response.json()
            etag = response.headers["etag"]
            progress.update(bar, **_figures(job))
            if job["terminal"]:
                return job


def _figures(job: dict[str, Any]) -> dict[str, Any]:
    now = job["progress"]
    loss = f"loss {now['loss']:.3f}" if now["loss"] is not None else ""
    eta = f"ETA {now['eta_seconds']:.0f} s" if now["eta_seconds"] else ""
    return {
        "state": job["state"],
        "completed": now["step"] or 0,
        "total": now["total_steps"],
        "steps": now["total_steps"] or "?",
        "figures": f"{loss} {eta}",
    }


class _Log:
    """The job's log. Each call reads on from the end of the previous call."""

    def __init__(self, client: httpx2.Client, job_id: str) -> None:
        self._client = client
        self._url = f"/v1/jobs/{job_id}/logs"
        self._offset = 0
        self._rest = ""

    def new_lines(self) -> list[str]:
        page = self._client.get(self._url, params={"offset": self._offset}).raise_for_status().json()
        self._offset = page["next_offset"]
        *lines, self._rest = (self._rest + page["text"]).split("\n")
        return [_short(line) for line in lines if SHOWN.search(line)]


def _short(line: str) -> str:
    """Shorten Bridge's iteration line to step, time and loss."""
    match = re.search(
        r"iteration +(\d+)/ +(\d+) .*?per iteration \(ms\): ([\d.]+).*?lm loss: ([\d.E+-]+)", line
    )
    if not match:
        return line.strip()
    return f"iteration {match[1]}/{match[2]}  {float(match[3]):.0f} ms  lm loss {float(match[4]):.3f}"
