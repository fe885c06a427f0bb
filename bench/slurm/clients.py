"""Clients that each read a job once per second: `python -m bench.slurm.clients URL KEY_FILE IDS_FILE N`.

Prints `sending` after one response to each, sends requests until stdin ends, and prints a summary as JSON.
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
RESPONSE_SECONDS = 60.0


@dataclass
class Responses:
    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def summary(self, lasted: float) -> dict[str, float]:
        per_second = len(self.seconds) / lasted
        return {"per_second": per_second, "median_seconds": median(self.seconds), "failed": self.failed}


async def main(url: str, key: str, ids: list[str], number: int) -> None:
    headers, limits = {"Authorization": f"Bearer {key}"}, httpx2.Limits(max_connections=number)
    async with httpx2.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=RESPONSE_SECONDS
    ) as http:
        await asyncio.gather(*(_request(http, ids, Responses()) for _ in range(number)))
        print("sending", flush=True)
        responses, started = Responses(), perf_counter()
        clients = [asyncio.create_task(_client(http, ids, responses)) for _ in range(number)]
        await asyncio.to_thread(sys.stdin.read)
        for client in clients:
            client.cancel()
        print(json.dumps(responses.summary(perf_counter() - started)))


async def _client(http: httpx2.AsyncClient, ids: list[str], responses: Responses) -> None:
    """Send a request each second, or immediately after a response that took longer."""
    due = perf_counter() + random.random() * INTERVAL_SECONDS  # noqa: S311
    while True:
        await asyncio.sleep(max(0.0, due - perf_counter()))
        due = max(due, perf_counter() - INTERVAL_SECONDS) + INTERVAL_SECONDS
        await _request(http, ids, responses)


async def _request(http: httpx2.AsyncClient, ids: list[str], responses: Responses) -> None:
    started = perf_counter()
    response = await http.get(f"/v1/jobs/{random.choice(ids)}")  # noqa: S311
    responses.seconds.append(perf_counter() - started)
    responses.failed += not response.is_success


if __name__ == "__main__":
    address, key_file, ids_file, count = sys.argv[1:]
    asyncio.run(
        main(address, Path(key_file).read_text().strip(), json.loads(Path(ids_file).read_text()), int(count))
    )
