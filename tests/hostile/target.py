"""The service under attack, and the observer who counts what an attack has achieved."""

import json
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil

from tests.support.inputs import make_inputs
from tests.support.service import Service

MAX_CPU_SECONDS = 2.0


@dataclass(frozen=True)
class Answer:
    """What a request was answered with; status 0: the connection was closed without an answer."""

    status: int
    headers: bytes = b""
    body: bytes = b""


Send = Callable[["Target"], Answer]


@dataclass(frozen=True)
class Attack:
    """One request or sequence of requests, with a name for the report."""

    name: str
    send: Send


@dataclass
class Count:
    """What the attacks of a campaign achieved."""

    campaign: str
    sent: int = 0
    escapes: int = 0
    errors: int = 0
    slow: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.escapes or self.errors or self.slow)


class Target:
    """A service with one job's inputs, a secret that no answer may contain, and a file that none may make."""

    def __init__(self, service: Service, directory: Path) -> None:
        self.service = service
        self.client = service.client
        self.body = make_inputs(service.data_dir)
        self.inputs = service.data_dir / "inputs"
        self.canary = directory / "canary"
        self.secret = f"secret-{secrets.token_hex(16)}"
        self.outside = directory / "outside"
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text(self.secret)
        self.admin_key = (service.data_dir / "admin.key").read_text().strip()
        self.log = service.data_dir.parent / "serve.err"
        self.job = service.submit(self.body)["id"]
        service.wait_for(self.job)

    def fire(self, campaign: str, attacks: Iterable[Attack]) -> Count:
        """Send the attacks one after the other, and count what each has achieved."""
        count = Count(campaign)
        for attack in attacks:
            before, log_size = self._cpu_seconds(), self.log.stat().st_size
            answer = attack.send(self)
            used = self._cpu_seconds() - before
            count.sent += 1
            self._judge(count, attack, answer, used, log_size)
        return count

    def _judge(self, count: Count, attack: Attack, answer: Answer, used: float, log_size: int) -> None:
        found = {
            "escapes": self._escaped(answer, log_size),
            "errors": f"status {answer.status}" if answer.status >= 500 else "",
            "slow": f"{used:.1f} s of CPU" if used > MAX_CPU_SECONDS else "",
        }
        for column, what in found.items():
            if what:
                setattr(count, column, getattr(count, column) + 1)
                print(f"{count.campaign}: {attack.name}: {what}")

    def _escaped(self, answer: Answer, log_size: int) -> str:
        if self.canary.exists():
            self.canary.unlink()
            return "a command was run"
        if b"x-injected" in answer.headers.lower():
            return "a header was injected"
        if any(text.encode() in answer.body for text in (self.secret, self.admin_key)):
            return "a secret was read"
        return "a line was put into the log" if self._has_foreign_lines(log_size) else ""

    def _has_foreign_lines(self, log_size: int) -> bool:
        """Whether a line of the log since `log_size` is not one of the service, which are JSON objects."""
        with self.log.open("rb") as log:
            log.seek(log_size)
            return not all(_is_object(line) for line in log.read().split(b"\n") if line)

    def _cpu_seconds(self) -> float:
        """Return the CPU time of the API and its children; one that has ended took its time with it."""
        api = self.service.children()["api"]
        total = 0.0
        for process in (api, *api.children(recursive=True)):
            try:
                used = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += used.user + used.system
            if process == api:
                total += used.children_user + used.children_system
        return total


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def of(answer: httpx2.Response) -> Answer:
    """Return a response of the client as an answer."""
    headers = b"\r\n".join(b"%s: %s" % pair for pair in answer.headers.raw)
    return Answer(answer.status_code, headers, answer.content)
