"""Clients that ask for a job once a second each: `python -m bench.slurm.clients URL KEY_FILE IDS_FILE N`.

Says `asking` once each has been answered, asks until its input ends, and prints what came of it as JSON.
"""

import asyncio
import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter

import httpx2

INTERVAL_SECONDS = 1.0
ANSWER_SECONDS = 60.0


@dataclass
class Answers:
    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def summary(self, lasted: float) -> dict[str, float]:
        asked = len(self.seconds) / lasted
        return {"asked": asked, "median_seconds": median(self.seconds), "failed": self.failed}


async def main(url: str, key: str, ids: list[str], number: int) -> None:
    headers, limits = {"Authorization": f"Bearer {key}"}, httpx2.Limits(max_connections=number)
    async with httpx2.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=ANSWER_SECONDS
    ) as http:
        await asyncio.gather(*(_ask(http, ids, Answers()) for _ in range(number)))
        print("asking", flush=True)
        answers, began = Answers(), perf_counter()
        clients = [asyncio.create_task(_client(http, ids, answers)) for _ in range(number)]
        await asyncio.to_thread(sys.stdin.read)
        for client in clients:
            client.cancel()
        print(json.dumps(answers.summary(perf_counter() - began)))


async def _client(http: httpx2.AsyncClient, ids: list[str], answers: Answers) -> None:
    """Asks again a second after it asked, or at once where the answer took longer."""
    due = perf_counter() + random.random() * INTERVAL_SECONDS  # noqa: S311
    while True:
        await asyncio.sleep(max(0.0, due - perf_counter()))
        due = max(due, perf_counter() - INTERVAL_SECONDS) + INTERVAL_SECONDS
        await _ask(http, ids, answers)


async def _ask(http: httpx2.AsyncClient, ids: list[str], answers: Answers) -> None:
    began = perf_counter()
    answer = await http.get(f"/v1/jobs/{random.choice(ids)}")  # noqa: S311
    answers.seconds.append(perf_counter() - began)
    answers.failed += not answer.is_success


if __name__ == "__main__":
    address, key_file, ids_file, count = sys.argv[1:]
    asyncio.run(
        main(address, Path(key_file).read_text().strip(), json.loads(Path(ids_file).read_text()), int(count))
    )
