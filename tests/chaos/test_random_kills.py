"""Many jobs, while random processes of the service are killed and restarted."""

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.chaos.parts import Parts
from tests.support.chaos.tally import Tally

PARTS = ("api", "worker", "beat")


@pytest.fixture
def seed() -> int:
    """Return the seed of the kills, shown if the test fails; an environment variable repeats a seed."""
    chosen = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"CHAOS_SEED={chosen}")
    return chosen


def storm(parts: Parts, tally: Tally, seed: int, jobs: int, pause: float, kills: int) -> None:
    """Post jobs from four clients, and kill a process about every `pause` seconds, at least `kills` times."""
    dice = random.Random(seed)
    with ThreadPoolExecutor(4) as clients:
        posted = [clients.submit(parts.submit, key=f"{seed}-{number}") for number in range(jobs)]
        while tally.kills < kills or not all(one.done() for one in posted):
            time.sleep(dice.uniform(0.5, 1.5) * pause)
            kill_one(parts, tally, dice)
        job_ids = [one.result() for one in posted]
    assert len(set(job_ids)) == jobs
    tally.judge(parts, job_ids, seconds=10 * jobs)
    assert len(all_jobs(parts)) == jobs


def kill_one(parts: Parts, tally: Tally, dice: random.Random) -> None:
    name = dice.choice(PARTS)
    parts.kill(name)
    tally.kills += 1
    time.sleep(dice.uniform(0, 1))
    parts.start(name)


def all_jobs(parts: Parts) -> list[str]:
    found: list[str] = []
    query: dict[str, str] | None = {}
    while query is not None:
        page = parts.client.get("/v1/jobs", params={"limit": "200", **query}).json()
        found += [job["id"] for job in page["items"]]
        query = {"cursor": page["next_cursor"]} if page["next_cursor"] else None
    return found


@pytest.mark.slow
def test_twenty_jobs_and_four_kills(make_parts: Callable[..., Any], tally: Tally, seed: int) -> None:
    with make_parts("sqlite") as parts:
        parts.start(*PARTS)
        storm(parts, tally, seed, jobs=20, pause=1, kills=4)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_three_hundred_jobs(make_parts: Callable[..., Any], kind: str, tally: Tally, seed: int) -> None:
    with make_parts(kind) as parts:
        parts.start(*PARTS)
        storm(parts, tally, seed, jobs=300, pause=3, kills=20)
