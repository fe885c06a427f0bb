"""The only error that a client gets while a part of the service is unavailable."""

import httpx2


def assert_unavailable(response: httpx2.Response) -> None:
    """Check that the response is a retryable problem. The client's own timeout limits its duration."""
    assert response.status_code == 503, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) > 0
    problem = response.json()
    assert problem["retryable"] is True
    assert problem["detail"]
