"""The API. Source of the format: the public SDK leptonai 0.47.1, api/v2."""

import time
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse

from tests.support.lepton.server.bodies import check_job
from tests.support.lepton.server.workspace import ENDED, ServerJob, ServerWorkspace

OK = {"message": "ok"}
HOUR_NS = 3600 * 10**9

router = APIRouter()


def get_workspace(request: Request) -> ServerWorkspace:
    found: ServerWorkspace = request.app.state.workspace
    return found


WorkspaceDep = Annotated[ServerWorkspace, Depends(get_workspace)]


def get_job(job_id: str, workspace: WorkspaceDep) -> ServerJob:
    job = workspace.find(job_id)
    if job is None:
        raise HTTPException(404, f"job {job_id} not found")
    return job


JobDep = Annotated[ServerJob, Depends(get_job)]


@router.post("/jobs", status_code=201)
def create_job(body: dict[str, Any], workspace: WorkspaceDep) -> Any:
    try:
        check_job(body)
    except ValueError as error:
        raise HTTPException(400, f"invalid job: {error}") from None
    job = workspace.create(body)
    if job is None:
        raise HTTPException(409, "the job already exists")
    return job.view()


@router.get("/jobs")
def list_jobs(
    workspace: WorkspaceDep,
    job_query_mode: str = "alive_only",
    q: str = "",
    query: str = "",
    status: Annotated[list[str] | None, Query()] = None,
    node_groups: Annotated[list[str] | None, Query()] = None,
    created_by: str = "",
    page: Annotated[int, Query(ge=1)] = 1,
    page_size: Annotated[int, Query(ge=1)] = 500,
) -> Any:
    label, _, value = query.partition("=")

    def is_chosen(job: ServerJob) -> bool:
        labels = job.metadata.get("labels") or {}
        return (
            q in job.id and (not query or labels.get(label) == value)
            and (not status or job.view()["status"]["state"] in status)
            and (not node_groups or not set(node_groups).isdisjoint(_groups(job)))
            and created_by in ("", job.metadata["created_by"])
        )  # fmt: skip

    found = workspace.listed(job_query_mode, is_chosen)
    items = [job.view() for job in found[(page - 1) * page_size : page * page_size]]
    return items if workspace.faults.bare_lists else {"jobs": items}


def _groups(job: ServerJob) -> list[str]:
    return (job.spec.get("affinity") or {}).get("allowed_dedicated_node_groups") or []


@router.get("/jobs/{job_id}")
def get_one(job: JobDep, job_query_mode: str = "alive_only") -> Any:
    if job_query_mode == ("alive_only" if job.is_archived else "archive_only"):
        raise HTTPException(404, f"job {job.id} not found")
    return job.view()


@router.patch("/jobs/{job_id}")
def patch_job(job: JobDep, body: dict[str, Any]) -> Any:
    match (body.get("spec") or {}).get("stopped"):
        case True:
            job.stop()
        case False:
            job.restart()
        case _:
            raise HTTPException(400, "only spec.stopped can be changed")
    return job.view()


@router.delete("/jobs/{job_id}")
def delete_job(job: JobDep) -> Any:
    job.stop()
    job.is_forgotten = True
    return OK


@router.get("/jobs/{job_id}/events")
def get_events(job: JobDep) -> Any:
    return job.events


@router.get("/jobs/{job_id}/replicas")
def get_replicas(job: JobDep) -> Any:
    return [_replica(index, replica) for index, replica in enumerate(job.replicas)]


def _replica(index: int, replica: str) -> dict[str, Any]:
    node = {"name": f"node-{index}", "id": f"node-{index}"}
    status = {"public_ip": "127.0.0.1", "node": node, "domains": []}
    return {"metadata": {"id": replica}, "id": replica, "status": status}


@router.get("/jobs/{job_id}/replicas/{replica}/log")
def get_replica_log(job: JobDep, replica: str, workspace: WorkspaceDep) -> StreamingResponse:
    """Stream the log until the replica has ended. A chunk may end within a character."""
    if replica not in job.replicas:
        raise HTTPException(404, f"replica {replica} not found")
    size = 7 if workspace.faults.split_characters else 1 << 16

    def chunks() -> Iterator[bytes]:
        seen = 0
        while True:
            is_over = job.state in ENDED
            lines = job.logs.of(replica, seen, timeout=0.0 if is_over else 0.5)
            data = b"".join(line.text + b"\n" for line in lines)
            seen += len(lines)
            yield from (data[begin : begin + size] for begin in range(0, len(data), size))
            if is_over and not lines:
                return

    return StreamingResponse(chunks(), media_type="text/plain")


@router.get("/logs")
def get_history(
    workspace: WorkspaceDep,
    job: str | None = None,
    start: int | None = None,
    end: int | None = None,
    replica: str | None = None,
    limit: int = 100,
    direction: str = "backward",
    q: str = "",
) -> Any:
    """Return the log of a job or a replica; by default of the last hour."""
    end = time.time_ns() if end is None else end
    start = end - HOUR_NS if start is None else start
    if end <= start:
        raise HTTPException(400, "end must be after start")
    known = get_job(job, workspace) if job else _job_of(replica, workspace)
    streams = known.logs.history(
        start, end, limit=limit, forward=direction == "forward", containing=q, replica=replica,
        twice=workspace.faults.repeat_lines,
        late_seconds={f"{known.id}-{index}": late for index, late in workspace.faults.late_seconds.items()},
    )  # fmt: skip
    return {"status": "success", "data": {"resultType": "streams", "result": streams}}


def _job_of(replica: str | None, workspace: ServerWorkspace) -> ServerJob:
    if replica is None:
        raise HTTPException(400, "a job or a replica is required")
    found = workspace.find(replica.rpartition("-")[0])
    if found is None or replica not in found.replicas:
        raise HTTPException(404, f"replica {replica} not found")
    return found


# -- other resources -------------------------------------------------------------------------------

GROUP_ID = "h100-pool-ab12"
NODES = ["node-0", "node-1"]
RESERVATION = {
    "metadata": {"id": "res-1", "name": "training"},
    "spec": {"desired_nodes": 2, "approved_nodes": 2},
    "status": {"phase": "Reserved", "reserved_count": 2, "reserved_nodes": NODES},
}
GROUP = {
    "metadata": {"id": GROUP_ID, "name": "h100-pool"},
    "spec": {"gpu_product": "H100", "desired_nodes": 2},
    "status": {"ready_nodes": 2, "quota_enabled": False},
}


@router.get("/dedicated-node-groups")
def list_groups() -> Any:
    return [GROUP]


@router.get("/dedicated-node-groups/{group}")
def get_group(group: str) -> Any:
    if group != GROUP_ID:
        raise HTTPException(404, f"node group {group} not found")
    return GROUP


@router.get("/dedicated-node-groups/{group}/nodes")
def list_nodes(group: str) -> Any:
    get_group(group)
    return [
        {"metadata": {"id": node}, "spec": {"unschedulable": False}, "status": {"status": ["Ready"]}}
        for node in NODES
    ]


@router.get("/dedicated-node-groups/{group}/reservations")
def list_reservations(group: str) -> Any:
    get_group(group)
    return [RESERVATION]


@router.get("/shapes")
def list_shapes(node_groups: Annotated[list[str] | None, Query()] = None) -> Any:
    if node_groups and GROUP_ID not in node_groups:
        return []
    spec = {"name": "gpu.8xh100-sxm", "accelerator_type": "NVIDIA-H100-80GB-HBM3", "accelerator_num": 8.0}
    return [{"metadata": {"id": "gpu.8xh100-sxm"}, "spec": spec}]


@router.get("/usersecrets")
def list_secrets(workspace: WorkspaceDep) -> Any:
    return [{"name": name} for name in workspace.secrets]


@router.post("/usersecrets")
def create_secrets(body: list[dict[str, Any]], workspace: WorkspaceDep) -> Any:
    workspace.secrets |= {one["name"]: one["value"] for one in body}
    return OK


@router.delete("/usersecrets/{name}")
def delete_secret(name: str, workspace: WorkspaceDep) -> Any:
    if workspace.secrets.pop(name, None) is None:
        raise HTTPException(404, f"secret {name} not found")
    return OK


def create_app(prefix: str, workspace: ServerWorkspace, token: Any) -> FastAPI:
    """Return the app. token: () -> the token that is valid now."""
    app = FastAPI()
    app.state.workspace = workspace
    app.include_router(router, prefix=prefix)

    @app.middleware("http")
    async def check_token(request: Request, call_next: Any) -> Any:
        if request.headers.get("Authorization") != f"Bearer {token()}":
            return JSONResponse({"code": "Unauthorized", "message": "invalid token"}, 401)
        return await call_next(request)

    return app
