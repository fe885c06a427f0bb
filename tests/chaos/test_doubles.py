"""Two workers and two beats poll and sweep twice: the effects occur once."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.chaos.tally import Tally


@pytest.mark.chaos
def test_two_of_each(make_parts: Callable[..., Any], kind: str, tally: Tally) -> None:
    # Every sweep finds jobs, although no message was lost.
    with make_parts(kind, SFT_STUCK_AFTER_SECONDS="0", SFT_SWEEP_INTERVAL_SECONDS="0.3") as parts:
        parts.start("api", "worker", "worker-2", "beat", "beat-2")
        made = [parts.submit() for _ in range(30)]
        unwanted = [parts.submit("hold") for _ in range(4)]
        for job_id in unwanted:
            parts.wait_for(job_id, "RUNNING")
            assert parts.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
        tally.judge(parts, made)
        tally.judge(parts, unwanted, "CANCELLED")
        assert parts.dead() == []
