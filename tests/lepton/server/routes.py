"""The API. Source of the format: the public SDK leptonai 0.47.1, api/v2."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse

from tests.lepton.server.workspace import ENDED, Job, Workspace

NAME = re.compile(r"[a-z]([a-z0-9-]{0,34}[a-z0-9])?")
OK = {"message": "ok"}

router = APIRouter()


def get_workspace(request: Request) -> Workspace:
    found: Workspace = request.app.state.workspace
    return found


WorkspaceDep = Annotated[Workspace, Depends(get_workspace)]


def get_job(job_id: str, workspace: WorkspaceDep) -> Job:
    job = workspace.find(job_id)
    if job is None:
        raise HTTPException(404, f"job {job_id} not found")
    return job


JobDep = Annotated[Job, Depends(get_job)]


@router.post("/jobs", status_code=201)
def create_job(body: dict[str, Any], workspace: WorkspaceDep) -> Any:
    name = (body.get("metadata") or {}).get("id") or (body.get("metadata") or {}).get("name") or ""
    if not NAME.fullmatch(name):
        raise HTTPException(400, f"invalid job name {name!r}")
    if not ((body.get("spec") or {}).get("container") or {}).get("command"):
        raise HTTPException(400, "spec.container.command is required")
    job = workspace.create(body)
    if job is None:
        raise HTTPException(409, f"job {name} already exists")
    return job.view()


@router.get("/jobs")
def list_jobs(
    workspace: WorkspaceDep,
    job_query_mode: str = "alive_only",
    q: str = "",
    query: str = "",
    status: Annotated[list[str] | None, Query()] = None,
    page: int = 1,
    page_size: int = 500,
) -> Any:
    label, _, value = query.partition("=")

    def is_chosen(job: Job) -> bool:
        labels = job.metadata.get("labels") or {}
        return (
            q in job.id and (not query or labels.get(label) == value)
            and (not status or job.view()["status"]["state"] in status)
        )  # fmt: skip

    found = workspace.listed(job_query_mode, is_chosen)
    items = [job.view() for job in found[(page - 1) * page_size : page * page_size]]
    return items if workspace.faults.bare_lists else {"jobs": items}


@router.get("/jobs/{job_id}")
def get_one(job: JobDep, job_query_mode: str = "alive_only") -> Any:
    if job.is_archived and job_query_mode == "alive_only":
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
    """All of it, and what comes while the replica runs. A chunk may end within a character."""
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
    job: str,
    start: int,
    end: int,
    replica: str | None = None,
    limit: int = 100,
    direction: str = "backward",
    q: str = "",
) -> Any:
    if end <= start:
        raise HTTPException(400, "end must be after start")
    known = get_job(job, workspace)
    streams = known.logs.history(
        start, end, limit=limit, forward=direction == "forward", containing=q, replica=replica,
        twice=workspace.faults.repeat_lines,
    )  # fmt: skip
    return {"status": "success", "data": {"resultType": "streams", "result": streams}}


# -- what there is besides jobs --------------------------------------------------------------------

GROUP = {
    "metadata": {"id": "h100-pool-ab12", "name": "h100-pool"},
    "spec": {"gpu_product": "H100", "desired_nodes": 2},
    "status": {"ready_nodes": 2, "quota_enabled": False},
}


@router.get("/dedicated-node-groups")
def list_groups() -> Any:
    return [GROUP]


@router.get("/dedicated-node-groups/{group}")
def get_group(group: str) -> Any:
    if group != "h100-pool-ab12":
        raise HTTPException(404, f"node group {group} not found")
    return GROUP


@router.get("/dedicated-node-groups/{group}/nodes")
def list_nodes(group: str) -> Any:
    get_group(group)
    return [
        {"metadata": {"id": f"node-{n}"}, "spec": {}, "status": {"status": ["Ready"], "resource": {}}}
        for n in (0, 1)
    ]


@router.get("/dedicated-node-groups/{group}/reservations")
def list_reservations(group: str) -> Any:
    get_group(group)
    return []


@router.get("/shapes")
def list_shapes() -> Any:
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


def create_app(prefix: str, workspace: Workspace, token: Any) -> FastAPI:
    """token: () -> the one that is valid now."""
    app = FastAPI()
    app.state.workspace = workspace
    app.include_router(router, prefix=prefix)

    @app.middleware("http")
    async def check_token(request: Request, call_next: Any) -> Any:
        if request.headers.get("Authorization") != f"Bearer {token()}":
            return JSONResponse({"code": "Unauthorized", "message": "invalid token"}, 401)
        return await call_next(request)

    return app
