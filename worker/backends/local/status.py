"""Whether the runs of the local profiles are isolated, and inspections, for the operator and for plans."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from worker.backends.local import isolation
from worker.backends.local.account import Account, account_of, switched
from worker.backends.local.isolation import Machine, View
from worker.clusters.registry import Cluster, LocalCluster, clusters
from worker.errors import Misconfigured
from worker.sandbox import bubblewrap
from worker.sandbox import status as sandbox
from worker.settings import get_settings

EXPOSED = "They can read the keys of the service"


def rejection(cluster: Cluster) -> str | None:
    """Return why a cluster accepts no jobs: they have to be isolated and cannot; None if it accepts them."""
    if not isinstance(cluster, LocalCluster) or get_settings().local_isolation != "required":
        return None
    return None if cluster.run_as else bubblewrap.obstacle()


def warnings() -> list[str]:
    """Return what an operator should know: what is not isolated, and why."""
    return [*_of_runs(), *sandbox.warnings()]


def _of_runs() -> list[str]:
    with suppress(Misconfigured):  # reported at the start, and by each request that needs a profile
        if any(cluster.run_as is None for cluster in _local()):
            return _warnings()
    return []


def _local() -> Iterator[LocalCluster]:
    return (cluster for cluster in clusters().values() if isinstance(cluster, LocalCluster))


def _warnings() -> list[str]:
    mode = get_settings().local_isolation
    if mode == "off":
        return [f"local runs are not isolated: SFT_LOCAL_ISOLATION is off. {EXPOSED}."]
    if (obstacle := bubblewrap.obstacle()) is None:
        return []
    effect = "Their jobs are rejected" if mode == "required" else EXPOSED
    return [f"local runs are not isolated: {obstacle}. {effect}. {bubblewrap.HINT}"]


# -- accounts --------------------------------------------------------------------------------------


def check_accounts() -> None:
    """Check that the account of each local profile can start its interpreter. Raises Misconfigured."""
    for cluster in _local():
        python = cluster.python or get_settings().trainer_python
        if cluster.run_as and python.exists():
            _check(account_of(cluster.run_as), python)


def _check(account: Account, python: Path) -> None:
    view = View(str(get_settings().data_dir), mode=get_settings().local_isolation, run_as=account.name)
    test = [*switched(account), "test", "-x", str(python)]
    if isolation.obstacle_of(view) is None:
        machine = Machine.inspect(python, {}, view, account)
        test = [bubblewrap.program() or "", *isolation.arguments(view, None, machine), "--", *test]
    limit = bubblewrap.PROBE_SECONDS
    try:
        done = subprocess.run(test, capture_output=True, text=True, timeout=limit, check=False, cwd="/")
    except subprocess.TimeoutExpired:
        return  # a busy machine
    if done.returncode:
        why = f" ({done.stderr.strip()[:300]})" if done.stderr else ""
        raise Misconfigured(
            f"The account {account.name!r} (run_as) cannot execute {python}{why}.",
            hint="Let it read the interpreter and all directories above, or remove run_as.",
        )
