"""Many jobs on a real Slurm while workers are killed at random: each job runs once."""

import os
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo.slurm.cluster import DemoSlurm
from tests.support.broker import on_socket, url_of
from tests.support.chaos.parts import ALL, Parts, free_port
from tests.support.chaos.tally import Tally
from tests.support.slurm_service import profiles
from tests.support.stand_in.control import starts_of

pytestmark = pytest.mark.timeout(3600)


class SlurmParts(Parts):
    """A service in parts, with jobs on `near` and `far` at random."""

    root: Path

    def body(self, mode: str = "train", **more: Any) -> dict[str, Any]:
        return super().body(mode, cluster=random.choice(("near", "far")), **more)

    def starts(self, job_id: str) -> list[str]:
        return starts_of(self.root / "jobs" / job_id)


@pytest.fixture
def parts(
    slurm: DemoSlurm, tmp_path: Path, stand_in: Path, secret_file: Path, migrated_sqlite: Path
) -> Iterator[SlurmParts]:
    data_dir, root = tmp_path / "data", tmp_path / "cluster"
    data_dir.mkdir()
    root.mkdir()
    text = profiles(slurm, root, data_dir, stand_in, secret_file, {"mem": "100M"})
    (data_dir / "clusters.toml").write_text(text)
    shutil.copy(migrated_sqlite, data_dir / "sft.db")
    with on_socket(tmp_path / "valkey") as broker:
        settings = {
            "SFT_DATABASE_URL": f"sqlite:///{data_dir / 'sft.db'}",
            "SFT_REDIS_URL": url_of(broker),
            "SFT_DEFAULT_CLUSTER": "near",
            "SFT_LOST_AFTER_SECONDS": "10",
        }
        with SlurmParts(data_dir, free_port(), **settings) as parts:
            parts.root = root
            parts.prepare()
            parts.start(*ALL)
            yield parts


@pytest.fixture
def dice() -> random.Random:
    """A random generator. Its seed is shown if the test fails; CHAOS_SEED repeats it."""
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    print(f"CHAOS_SEED={seed}")
    return random.Random(seed)


def storm(parts: SlurmParts, tally: Tally, dice: random.Random, jobs: int, kills: int) -> None:
    """Post jobs from four clients, and kill the worker at random."""
    with ThreadPoolExecutor(4) as clients:
        posted = [clients.submit(parts.submit, key=str(number)) for number in range(jobs)]
        while tally.kills < kills or not all(one.done() for one in posted):
            time.sleep(dice.uniform(0.5, 2.0))  # the moment of the kill is what is tried
            parts.kill("worker")
            tally.kills += 1
            parts.start("worker")
        job_ids = [one.result() for one in posted]
    tally.judge(parts, job_ids, seconds=10 * jobs)


@pytest.mark.slow
def test_ten_jobs_and_two_kills(parts: SlurmParts, tally: Tally, dice: random.Random) -> None:
    storm(parts, tally, dice, jobs=10, kills=2)


@pytest.mark.slurm
def test_two_hundred_jobs(parts: SlurmParts, tally: Tally, dice: random.Random) -> None:
    storm(parts, tally, dice, jobs=200, kills=20)
