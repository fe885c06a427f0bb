"""Whether the runs of the local profiles are isolated, for the operator and for plans."""

from contextlib import suppress

from worker.backends.local import isolation
from worker.clusters.registry import Cluster, LocalCluster, clusters
from worker.errors import Misconfigured
from worker.settings import get_settings

EXPOSED = "They can read the keys of the service"


def rejection(cluster: Cluster) -> str | None:
    """Return why a cluster accepts no jobs: they have to be isolated and cannot; None if it accepts them."""
    if not isinstance(cluster, LocalCluster) or get_settings().local_isolation != "required":
        return None
    return isolation.obstacle()


def warnings() -> list[str]:
    """Return what an operator should know: local runs are not isolated, and why."""
    with suppress(Misconfigured):  # reported at the start, and by each request that needs a profile
        if any(isinstance(cluster, LocalCluster) for cluster in clusters().values()):
            return _warnings()
    return []


def _warnings() -> list[str]:
    mode = get_settings().local_isolation
    if mode == "off":
        return [f"local runs are not isolated: SFT_LOCAL_ISOLATION is off. {EXPOSED}."]
    if (obstacle := isolation.obstacle()) is None:
        return []
    effect = "Their jobs are rejected" if mode == "required" else EXPOSED
    return [f"local runs are not isolated: {obstacle}. {effect}. {isolation.HINT}"]
