"""Use the service with a generated client, in its environment: `python drive.py URL KEY BODY.json`.

Prints the results as a JSON object.
"""

import json
import sys
from pathlib import Path

from sft_client import AuthenticatedClient
from sft_client.api.checkpoints import download_checkpoint_file, get_checkpoint, list_checkpoints
from sft_client.api.jobs import create_job, get_job, list_jobs, plan_job
from sft_client.api.logs import get_logs
from sft_client.models import JobSpec, JobState, Problem


def main(url: str, key: str, body: Path) -> dict[str, object]:
    client = AuthenticatedClient(base_url=url, token=key)
    spec = JobSpec.from_dict(json.loads(body.read_text()))
    plan = plan_job.sync(client=client, body=spec)
    job = create_job.sync(client=client, body=spec, idempotency_key="generated-client")
    while not job.terminal:
        job = get_job.sync(job.id, client=client, wait="10s")
    listed = list_jobs.sync(client=client, state=[JobState.SUCCEEDED])
    log = get_logs.sync(job.id, client=client, tail=100)
    [saved] = list_checkpoints.sync(job.id, client=client).items
    detail = get_checkpoint.sync(job.id, saved.iteration, client=client)
    files = {}
    for file in detail.files:
        download = download_checkpoint_file.sync(job.id, saved.iteration, file.path, client=client)
        files[file.path] = len(download.payload.read())
    missing = get_job.sync("job-none", client=client)
    assert isinstance(missing, Problem)
    return {
        "plan_ok": plan.ok,
        "state": job.state.value,
        "listed": [one.id for one in listed.items] == [job.id],
        "log": log.text,
        "files": files,
        "bytes": detail.bytes_,
        "missing": missing.code,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
