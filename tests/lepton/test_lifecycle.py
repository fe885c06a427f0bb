"""One life of a job in a workspace: created, watched, read, paused, resumed, cancelled, refused."""

import pytest

from tests.lepton.parts import LeptonService

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("cluster", ["mounted", "far"])


@BOTH
def test_a_job_on_two_nodes_trains_and_shows_what_it_did(service: LeptonService, cluster: str) -> None:
    resources = {"nodes": 2, "gpus_per_node": 2}
    job = service.submit(service.body(cluster=cluster, resources=resources))
    job = service.wait_for(job["id"])
    assert (job["state"], job["progress"]["step"], job["progress"]["loss"]) == ("SUCCEEDED", 4, 4.0)
    assert job["backend"]["kind"] == "lepton"
    assert service.starts(job["id"]) == ["1"]
    assert "größe: ééé\nbad byte \ufffd here\n" in service.log(job["id"])
    steps = service.client.get(f"/v1/jobs/{job['id']}/metrics").json()["train"]
    assert [one["step"] for one in steps] == [1, 2, 3, 4]
