"""The one answer that a client gets while a part is away."""

import httpx2


def assert_refused(answer: httpx2.Response) -> None:
    """A problem that says: try again. How long it took, the client's own time limit has seen to."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    problem = answer.json()
    assert problem["retryable"] is True
    assert problem["detail"]
