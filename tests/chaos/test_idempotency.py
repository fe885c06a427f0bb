"""Two hundred concurrent equal requests create one job."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import httpx2
import pytest

from tests.support.chaos.parts import Parts
from tests.support.chaos.tally import Tally
from tests.support.waiting import wait_until

REQUESTS = 200


@pytest.mark.chaos
def test_concurrent_equal_requests(parts: Parts, tally: Tally) -> None:
    body, headers = parts.body(), {"Idempotency-Key": "two-hundred"}
    together = Barrier(REQUESTS)
    url = str(parts.client.base_url)
    auth = {"Authorization": parts.client.headers["Authorization"]}

    def post(_: int) -> httpx2.Response:
        with httpx2.Client(base_url=url, headers=auth, timeout=120) as client:
            client.get("/healthz")  # connect before the requests start
            together.wait()
            return wait_until(lambda: accepted(client), 120, "the request to find a slot")

    def accepted(client: httpx2.Client) -> httpx2.Response | None:
        """Repeat a request for which there is no slot, as Retry-After asks for."""
        answer = client.post("/v1/jobs", json=body, headers=headers)
        return None if answer.status_code == 429 and answer.headers["Retry-After"] else answer

    with ThreadPoolExecutor(REQUESTS) as clients:
        answers = list(clients.map(post, range(REQUESTS)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert [answer.headers["idempotency-replayed"] for answer in answers].count("false") == 1
    assert len(parts.client.get("/v1/jobs").json()["items"]) == 1
    tally.judge(parts, [answers[0].json()["id"]])
