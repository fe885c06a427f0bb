"""The tests' Lepton server: its answers and its injected faults."""

import json
from typing import Any

import httpx2
import pytest

from tests.support.lepton.client import Client, job_body

# -- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "A", "1a", "a-", "a_b", "a" * 37, "-a"])
def test_invalid_names_are_rejected(client: Client, name: str) -> None:
    assert client.ask("POST", "/jobs", json=job_body(name)).status_code == 400
    assert client.server.workspace.created == []


def test_the_longest_name_is_accepted(client: Client) -> None:
    client.create("a" * 36)


@pytest.mark.parametrize(
    "spec",
    [
        {"container": {"image": "any"}},
        {"container": {"command": "echo"}},
        {"completions": 0},
        {"mounts": [{"path": "/", "mount_path": "/x"}]},
    ],
)
def test_invalid_bodies_are_rejected(client: Client, spec: dict[str, Any]) -> None:
    assert client.ask("POST", "/jobs", json=job_body("r1", **spec)).status_code == 400
    assert client.ask("POST", "/jobs", content=b"{").status_code == 422
    assert client.server.workspace.created == []


def test_unknown_fields_are_ignored_and_kept(client: Client) -> None:
    job = client.create("r1", fancy={"new": True})
    assert client.get("/jobs/r1")["spec"]["fancy"] == job.body["spec"]["fancy"] == {"new": True}


@pytest.mark.parametrize(
    "path", ["/jobs/no", "/jobs/no/events", "/jobs/no/replicas", "/logs?job=no", "/logs?replica=no-0", "/no"]
)
def test_a_missing_resource_is_not_found(client: Client, path: str) -> None:
    assert client.ask("GET", path).status_code == 404


def test_pages_begin_with_one_and_end_with_an_empty_one(client: Client) -> None:
    client.server.workspace.hold_queue = True
    for name in "abc":
        client.create(name)
    pages = [client.get("/jobs", page=page, page_size=2)["jobs"] for page in (1, 2, 3)]
    assert [[job["metadata"]["id"] for job in page] for page in pages] == [["c", "b"], ["a"], []]
    assert client.ask("GET", "/jobs", params={"page": 0}).status_code == 422


def test_requests_are_recorded(client: Client) -> None:
    client.get("/jobs", page=2, q="r1")
    client.ask("DELETE", "/jobs/no")
    assert client.server.requests == [("GET", "/jobs", {"page": "2", "q": "r1"}), ("DELETE", "/jobs/no", {})]
    assert client.server.asked("GET", "/jobs") == 1


def test_a_token_is_needed(client: Client) -> None:
    answer = client.http.get(f"{client.server.url}/jobs")
    assert (answer.status_code, answer.json()["message"]) == (401, "invalid token")


# -- faults ----------------------------------------------------------------------------------------


def test_a_status_for_the_next_two_requests_of_a_path(client: Client) -> None:
    client.server.faults.add(
        "status", method="GET", path="/jobs.*", times=2, status=429, headers={"Retry-After": "7"}
    )
    assert client.ask("GET", "/shapes").status_code == 200
    assert client.ask("DELETE", "/jobs/no").status_code == 404
    answers = [client.ask("GET", path) for path in ("/jobs", "/jobs/no", "/jobs")]
    assert [one.status_code for one in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "7"


def test_a_status_until_it_is_lifted(client: Client) -> None:
    client.server.faults.add(
        "status", status=502, headers={"Content-Type": "text/html"}, body=b"<h1>Bad Gateway</h1>"
    )
    answers = [client.ask("GET", "/jobs") for _ in range(3)]
    assert [one.text for one in answers] == ["<h1>Bad Gateway</h1>"] * 3
    client.server.faults.lift()
    assert client.get("/jobs") == {"jobs": []}


def test_a_cut_before_and_after_a_job_was_created(client: Client) -> None:
    client.server.faults.add("cut", method="POST", times=1)
    with pytest.raises(httpx2.TransportError):
        client.ask("POST", "/jobs", json=job_body("r1"))
    assert client.server.workspace.created == []
    client.server.faults.add("cut_after", method="POST", times=1)
    with pytest.raises(httpx2.TransportError):
        client.ask("POST", "/jobs", json=job_body("r1"))
    client.wait_for("r1", "Completed")


def test_an_answer_that_is_not_json(client: Client) -> None:
    client.server.faults.add("broken", times=1)
    with pytest.raises(json.JSONDecodeError):
        client.ask("GET", "/jobs").json()


def test_a_slow_answer_does_not_block_others(client: Client) -> None:
    client.server.faults.add("slow", path="/jobs", seconds=600)
    with pytest.raises(httpx2.ReadTimeout):
        client.ask("GET", "/jobs", timeout=0.5)
    assert client.get("/usersecrets") == []


def test_ids_with_a_suffix(client: Client) -> None:
    client.server.faults.suffix_names = True
    jobs = [client.create("r1") for _ in range(2)]
    assert len({job.id for job in jobs}) == 2
    assert all(client.get(f"/jobs/{job.id}")["metadata"]["id"].startswith("r1-") for job in jobs)


# -- logs ------------------------------------------------------------------------------------------


def test_lines_are_ordered_and_the_limit_counts_over_all_replicas(client: Client) -> None:
    client.create("r1", "for n in {1..50}; do echo $n; echo e$n >&2; done", completions=2)
    client.wait_for("r1", "Completed")
    expected = [text for n in range(1, 51) for text in (str(n), f"e{n}")]
    for replica in ("r1-0", "r1-1"):
        assert [text for *_, text in client.lines("r1", replica=replica)] == expected
    every = sorted(at for _, at, _ in client.lines("r1"))
    assert sorted(at for _, at, _ in client.lines("r1", limit=7)) == every[:7]
    assert sorted(at for _, at, _ in client.lines("r1", limit=7, direction="backward")) == every[-7:]
    assert len(client.lines("r1", q="e49")) == 2
    answer = client.get("/logs", replica="r1-1")["data"]["result"]
    assert [stream["stream"] for stream in answer] == [{"job": "r1", "replica": "r1-1"}]


def test_bytes_that_are_not_text(client: Client) -> None:
    client.create("r1", r"printf 'bad \377 byte\nno end'")
    client.wait_for("r1", "Completed")
    assert [text for *_, text in client.lines("r1")] == ["bad \ufffd byte", "no end"]
    assert client.ask("GET", "/jobs/r1/replicas/r1-0/log").content == b"bad \xff byte\nno end\n"
    assert client.ask("GET", "/jobs/r1/replicas/r1-7/log").status_code == 404


def test_chunks_that_split_characters(client: Client) -> None:
    client.create("r1", "echo éééééééé")
    client.wait_for("r1", "Completed")
    headers = {"Authorization": f"Bearer {client.server.token}"}
    url = f"{client.server.url}/jobs/r1/replicas/r1-0/log"
    with client.http.stream("GET", url, headers=headers) as response:
        chunks = list(response.iter_raw())
    assert b"".join(chunks).decode() == "éééééééé\n"
    with pytest.raises(UnicodeDecodeError):
        chunks[0].decode()


def test_repeated_lines(client: Client) -> None:
    client.create("r1", "echo a; echo b")
    client.wait_for("r1", "Completed")
    client.server.faults.repeat_lines = True
    assert [text for *_, text in client.lines("r1")] == ["a", "a", "b", "b"]


def test_lines_with_the_same_time(client: Client) -> None:
    client.server.faults.clock_tick_ns = 3600 * 10**9
    client.create("r1", "seq 5", completions=2)
    client.wait_for("r1", "Completed")
    lines = client.lines("r1")
    assert (len(lines), len({at for _, at, _ in lines})) == (10, 1)
    assert [text for *_, text in client.lines("r1", replica="r1-0")] == list("12345")


def test_late_lines_keep_their_time(client: Client) -> None:
    client.server.faults.late_seconds[0] = 600
    job = client.create("r1", "echo x", completions=2)
    client.wait_for("r1", "Completed")
    assert [replica for replica, *_ in client.lines("r1")] == ["r1-1"]
    client.server.faults.late_seconds.clear()
    assert {replica for replica, *_ in client.lines("r1")} == {"r1-0", "r1-1"}
    assert job.state == "Completed"
