"""Effects of faults on jobs: how many were lost, duplicated, or ended in a wrong state."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.chaos.parts import Parts

ONCE = ("created", "submitted", "trainer.started", "checkpoint", "trainer.finished")


@dataclass
class Tally:
    jobs: int = 0
    kills: int = 0
    """Kills, or other faults: a broker that lost messages, a clock that jumped."""
    lost: int = 0
    doubled: int = 0
    wrong: int = 0

    def judge(
        self, parts: "Parts", job_ids: Iterable[str], state: str = "SUCCEEDED", seconds: float = 120
    ) -> None:
        """Wait for the end of jobs with one attempt, count wrong results, and fail if there are any."""
        deadline = time.monotonic() + seconds
        faults = [fault for job_id in job_ids if (fault := self._judge(parts, job_id, state, deadline))]
        assert not faults, faults

    def _judge(self, parts: "Parts", job_id: str, state: str, deadline: float) -> str | None:
        self.jobs += 1
        try:
            job = parts.wait_for(job_id, timeout=max(1.0, deadline - time.monotonic()))
        except AssertionError as error:
            self.lost += 1
            return str(error)
        events = parts.events(job_id)
        starts = parts.starts(job_id)
        if len(starts) > 1 or (twice := _more_than_once(events)):
            self.doubled += 1
            return f"{job_id}: runs {starts}, more than once {twice}"
        missing = set(ONCE) - {event["type"] for event in events} if state == "SUCCEEDED" else None
        if job["state"] != state or missing:
            self.wrong += 1
            return f"{job_id}: {job['state']} {job['state_reason']} without {missing}"
        return None

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def _more_than_once(events: list[dict[str, object]]) -> list[str]:
    kinds = Counter(
        f"state {event['data']['to']}" if event["type"] == "state" else event["type"]  # type: ignore[index]
        for event in events
    )
    return [str(kind) for kind, count in kinds.items() if count > 1]
