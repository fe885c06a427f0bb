"""The only errors that a client gets while a part of the service is unavailable, or its disk is full."""

import httpx2


def assert_unavailable(response: httpx2.Response) -> None:
    """Check that the response is a retryable problem. The client's own timeout limits its duration."""
    _assert_retryable(response, 503)


def assert_storage_full(response: httpx2.Response) -> None:
    _assert_retryable(response, 507)
    assert response.json()["code"] == "storage_full"


def _assert_retryable(response: httpx2.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) > 0
    problem = response.json()
    assert problem["retryable"] is True
    assert problem["detail"]
