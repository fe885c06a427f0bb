"""Clusters that jobs can run on."""

from fastapi import APIRouter, Depends

from api import schemas
from api.auth import CallerDep, get_caller
from api.problems import declared
from worker.clusters import registry
from worker.jobs import statistics
from worker.settings import get_settings

router = APIRouter(tags=["clusters"], dependencies=[Depends(get_caller)])


@router.get("/clusters", responses=declared())
def list_clusters(caller: CallerDep) -> schemas.ClusterList:
    """List the clusters that your project may use, their limits, and the number of live jobs on them."""
    live = statistics.live_jobs_by_cluster()
    default = get_settings().default_cluster
    return schemas.ClusterList(
        items=[
            schemas.ClusterView.of(profile, live.get(name, {}), default=name == default)
            for name, profile in registry.open_to(caller.tenant).items()
        ]
    )
