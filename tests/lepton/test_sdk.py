"""The Lepton server behaves as NVIDIA's own SDK expects."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.lepton.sdk import Sdk, SdkError
from tests.support.lepton.server.server import LeptonServer
from tests.support.waiting import wait_until

# The first test includes the installation of the SDK.
pytestmark = pytest.mark.timeout(900)
GROUP = "h100-pool-ab12"


def job_body(job_id: str, script: str = "true", **spec: Any) -> dict[str, Any]:
    """Return a job as users of the SDK write it, for a training on two nodes."""
    return {
        "metadata": {"id": job_id, "labels": {"run": "r1"}},
        "spec": {
            "resource_shape": "gpu.8xh100-sxm",
            "affinity": {"allowed_dedicated_node_groups": [GROUP]},
            "container": {"image": "nvcr.io/nvidia/nemo:26.04", "command": ["/bin/bash", "-c", script]},
            "shared_memory_size": 65536,
            "completions": 2,
            "parallelism": 2,
            "max_failure_retry": 0,
            "max_job_failure_retry": 0,
            "envs": [{"name": "PYTHONUNBUFFERED", "value": "1"}],
            "image_pull_secrets": ["ngc"],
            "ttl_seconds_after_finished": 259200,
            "intra_job_communication": True,
            "user_security_context": {"privileged": False},
            "log": {"enable_collection": True},
            "queue_config": {"priority_class": "mid-4000", "can_be_preempted": False},
            "reservation_config": {"reservation_id": "res-1"},
            **spec,
        },
    }


def wait_for(sdk: Sdk, server: LeptonServer, job_id: str, state: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        job: dict[str, Any] = sdk(server, "job.get", id_or_job=job_id)
        return job if job["status"]["state"] == state else None

    return wait_until(reached, what=f"{job_id} {state}")


def has(found: Any, expected: Any) -> bool:
    """Return whether all expected fields are present. The SDK shows further fields as null."""
    if isinstance(expected, dict):
        return all(has(found[name], value) for name, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(has, found, expected))
    return bool(found == expected)


def test_a_job_is_created_with_all_fields_and_completes(
    lepton: LeptonServer, sdk: Sdk, tmp_path: Path
) -> None:
    sdk(lepton, "secret.create", secrets=[{"name": "TEAM_HF", "value": "hidden"}])
    body = job_body(
        "nemotron-sft",
        f'echo "$HF_TOKEN $LEPTON_JOB_WORKER_INDEX" > {tmp_path}/job/$LEPTON_JOB_WORKER_INDEX',
        envs=[{"name": "HF_TOKEN", "value_from": {"secret_name_ref": "TEAM_HF"}}],
        mounts=[{"path": "/runs", "from": "node-nfs:lustre", "mount_path": str(tmp_path / "job")}],
    )
    created = sdk(lepton, "job.create", spec=body)
    assert has(created, body)
    assert created["metadata"]["created_at"] > 0
    job = wait_for(sdk, lepton, "nemotron-sft", "Completed")
    assert has(job, body)
    assert (job["status"]["succeeded"], job["status"]["failed"]) == (2, 0)
    assert job["status"]["completion_time"] >= job["status"]["creation_time"]
    runs = lepton.storage / "lustre" / "runs"
    assert [(runs / index).read_text() for index in "01"] == ["hidden 0\n", "hidden 1\n"]


def test_jobs_are_listed_with_pages_and_filters(lepton: LeptonServer, sdk: Sdk) -> None:
    lepton.workspace.hold_queue = True
    for number in range(5):
        body = job_body(f"job-{number}")
        body["metadata"]["labels"] = {"number": str(number)}
        sdk(lepton, "job.create", spec=body)

    def listed(**filters: Any) -> list[str]:
        return sorted(job["metadata"]["id"] for job in sdk(lepton, "job.list_all", **filters))

    every = [f"job-{number}" for number in range(5)]
    assert listed() == every
    pages = [listed(page=page, page_size=2) for page in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert sorted(one for page in pages for one in page) == every
    assert listed(q="b-3") == ["job-3"]
    assert listed(query="number=4") == ["job-4"]
    assert (listed(status=["Queueing"]), listed(status=["Running", "Failed"])) == (every, [])
    assert (listed(node_groups=[GROUP]), listed(node_groups=["other"])) == (every, [])
    creator = sdk(lepton, "job.get", id_or_job="job-0")["metadata"]["created_by"]
    assert "@" in creator
    assert (listed(created_by=creator), listed(created_by="nobody@example.com")) == (every, [])
    lepton.faults.bare_lists = True
    assert listed() == every


def test_archived_jobs_are_listed_on_request(lepton: LeptonServer, sdk: Sdk) -> None:
    sdk(lepton, "job.create", spec=job_body("old"))
    wait_for(sdk, lepton, "old", "Completed")
    lepton.workspace.job("old").is_archived = True

    def listed(mode: str) -> list[str]:
        return [job["metadata"]["id"] for job in sdk(lepton, "job.list_all", job_query_mode=mode)]

    assert [listed(mode) for mode in ("alive_only", "archive_only", "alive_and_archive")] == [
        [], ["old"], ["old"],
    ]  # fmt: skip
    assert sdk(lepton, "job.get", id_or_job="old")["status"]["state"] == "Archived"
    with pytest.raises(SdkError, match="404"):
        sdk(lepton, "job.get", id_or_job="old", job_query_mode="alive_only")


def test_an_unknown_state_is_unk(lepton: LeptonServer, sdk: Sdk) -> None:
    lepton.workspace.hold_queue = True
    sdk(lepton, "job.create", spec=job_body("sleepy"))
    lepton.workspace.job("sleepy").shown = "Hibernating"
    assert sdk(lepton, "job.get", id_or_job="sleepy")["status"]["state"] == "UNK"


def test_a_job_is_stopped_started_again_and_deleted(lepton: LeptonServer, sdk: Sdk) -> None:
    sdk(lepton, "job.create", spec=job_body("r1", "trap 'exit 0' TERM; echo up; sleep 60 & wait"))
    [first, _] = replicas = [one["metadata"]["id"] for one in wait_for_replicas(sdk, lepton, "r1")]
    assert len(set(replicas)) == 2
    # While the job runs, the replica's log is streamed.
    assert "up\n" in sdk(lepton, "job.get_log", id_or_job="r1", replica=first, until="up\n")
    job = wait_for(sdk, lepton, "r1", "Running")
    assert (job["status"]["active"], job["status"]["ready"]) == (2, 2)

    sdk(lepton, "job.update", name_or_job="r1", spec={"spec": {"stopped": True}})
    assert wait_for(sdk, lepton, "r1", "Stopped")["spec"]["stopped"] is True
    sdk(lepton, "job.update", name_or_job="r1", spec={"spec": {"stopped": False}})
    assert wait_for(sdk, lepton, "r1", "Running")["spec"]["stopped"] is False

    events = sdk(lepton, "job.get_events", name_or_job="r1")
    assert [one["reason"] for one in events].count("Started") == 2
    sdk(lepton, "job.delete", name_or_job="r1")
    with pytest.raises(SdkError, match="404"):
        sdk(lepton, "job.get", id_or_job="r1")
    assert sdk(lepton, "job.list_all", job_query_mode="alive_and_archive") == []


def wait_for_replicas(sdk: Sdk, server: LeptonServer, job_id: str) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        replicas: list[dict[str, Any]] = sdk(server, "job.get_replicas", name_or_job=job_id)
        return replicas

    return wait_until(found, what=f"replicas of {job_id}")


def test_a_replicas_log_in_chunks_that_split_characters(lepton: LeptonServer, sdk: Sdk) -> None:
    """The SDK decodes each chunk separately, so it cannot read a log with split characters."""
    sdk(lepton, "job.create", spec=job_body("loud", "echo Größe: éééééééé; echo 0123456789"))
    wait_for(sdk, lepton, "loud", "Completed")
    replica = sdk(lepton, "job.get_replicas", name_or_job="loud")[0]["metadata"]["id"]
    with pytest.raises(SdkError) as failed:
        sdk(lepton, "job.get_log", id_or_job="loud", replica=replica)
    assert failed.value.kind == "UnicodeDecodeError"
    lepton.faults.split_characters = False
    text = sdk(lepton, "job.get_log", id_or_job="loud", replica=replica)
    assert text == "Größe: éééééééé\n0123456789\n"


def lines_of(history: dict[str, Any]) -> list[tuple[int, str]]:
    values = [value for stream in history["data"]["result"] for value in stream["values"]]
    return [(int(at), line) for at, line in values]


def test_the_history_of_a_log_in_a_time_range(lepton: LeptonServer, sdk: Sdk) -> None:
    sdk(lepton, "job.create", spec=job_body("r1", "for n in {1..10}; do echo line $n größe; done"))
    job = wait_for(sdk, lepton, "r1", "Completed")
    begin, end = (job["status"][name] * 1_000_000 for name in ("creation_time", "completion_time"))
    end += 1_000_000

    def history(start: int = begin, end: int = end, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = sdk(lepton, "log.get_log", name_or_job="r1", start=start, end=end, **more)
        return found

    streams = history()["data"]["result"]
    replicas = [one["metadata"]["id"] for one in sdk(lepton, "job.get_replicas", name_or_job="r1")]
    assert sorted(stream["stream"]["replica"] for stream in streams) == sorted(replicas)
    assert all(len(stream["values"]) == 10 for stream in streams)

    one = lines_of(history(replica=replicas[1], direction="forward"))
    assert [line for _, line in one] == [f"line {number} größe" for number in range(1, 11)]
    assert lines_of(history(replica=replicas[1])) == one[::-1]
    # The start is inclusive, the end exclusive.
    within = lines_of(history(start=one[3][0], end=one[7][0], replica=replicas[1], direction="forward"))
    assert within == [line for line in one if one[3][0] <= line[0] < one[7][0]]

    newest = sorted(at for at, _ in lines_of(history()))[-3:]
    assert sorted(at for at, _ in lines_of(history(limit=3))) == newest
    assert {line for _, line in lines_of(history(q="line 7"))} == {"line 7 größe"}


def test_the_command_reads_a_history_of_more_than_one_page(
    lepton: LeptonServer, sdk: Sdk, tmp_path: Path
) -> None:
    """`lep log get` reads pages of 10,000 lines, each from the time of the last line on."""
    sdk(lepton, "job.create", spec=job_body("long", "seq 1 12000", completions=1, parallelism=1))
    wait_for(sdk, lepton, "long", "Completed")
    sdk.lep(
        lepton, "log", "get", "--job", "long", "--end", "now", "--without-timestamp", "--workers", "1",
        "--path", str(tmp_path / "log.txt"),
    )  # fmt: skip
    numbers = [int(line) for line in (tmp_path / "log.txt").read_text().split("\n") if line.isdigit()]
    assert numbers == list(range(1, 12001))
    assert lepton.asked("GET", "/logs") > 1


def test_node_groups_reservations_and_shapes_are_listed(lepton: LeptonServer, sdk: Sdk) -> None:
    [group] = sdk(lepton, "nodegroup.list_all")
    assert (group["metadata"]["id"], group["status"]["ready_nodes"]) == (GROUP, 2)
    assert sdk(lepton, "nodegroup.get", name_or_ng=GROUP) == group
    nodes = sdk(lepton, "nodegroup.list_nodes", name_or_ng=GROUP)
    assert [node["metadata"]["id"] for node in nodes] == ["node-0", "node-1"]
    [reservation] = sdk(lepton, "nodegroup.list_reservations", name_or_ng=GROUP)
    assert (reservation["metadata"]["id"], reservation["status"]["phase"]) == ("res-1", "Reserved")
    [shape] = sdk(lepton, "shapes.list_shapes", node_group=GROUP, purpose="job")
    assert (shape["metadata"]["id"], shape["spec"]["accelerator_num"]) == ("gpu.8xh100-sxm", 8)
    assert sdk(lepton, "shapes.list_shapes", node_group="other") == []
    with pytest.raises(SdkError, match="404"):
        sdk(lepton, "nodegroup.list_nodes", name_or_ng="other")


def test_secret_values_are_never_returned(lepton: LeptonServer, sdk: Sdk) -> None:
    sdk(lepton, "secret.create", secrets=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}])
    assert [(one["name"], one["value"]) for one in sdk(lepton, "secret.list_all")] == [
        ("A", None),
        ("B", None),
    ]
    sdk(lepton, "secret.delete", name="A")
    assert [one["name"] for one in sdk(lepton, "secret.list_all")] == ["B"]
    with pytest.raises(SdkError, match="404"):
        sdk(lepton, "secret.delete", name="A")


def test_a_wrong_token_is_rejected_and_a_renewed_one_accepted(lepton: LeptonServer, sdk: Sdk) -> None:
    with pytest.raises(SdkError, match="401") as failed:
        sdk(lepton, "job.list_all", token="wrong")
    assert failed.value.kind == "ClientError"
    old, lepton.token = lepton.token, "renewed"
    with pytest.raises(SdkError, match="401"):
        sdk(lepton, "job.list_all", token=old)
    assert sdk(lepton, "job.list_all", token="renewed") == []


def test_an_invalid_job_is_rejected(lepton: LeptonServer, sdk: Sdk) -> None:
    with pytest.raises(SdkError, match="400"):  # the SDK does not check it
        sdk(lepton, "job.create", spec=job_body("nothing", container={"image": "nemo"}))
    lepton.workspace.hold_queue = True
    sdk(lepton, "job.create", spec=job_body("twice"))
    with pytest.raises(SdkError, match="409"):
        sdk(lepton, "job.create", spec=job_body("twice"))
    lepton.faults.suffix_names = True
    again = sdk(lepton, "job.create", spec=job_body("twice"))["metadata"]["id"]
    assert again.startswith("twice-")
    assert sdk(lepton, "job.get", id_or_job=again)["status"]["state"] == "Queueing"
