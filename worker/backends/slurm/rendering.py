"""Render a run as the files of a Slurm job. Pure: the same run and profile give the same bytes."""

from pathlib import Path
from typing import Any

import yaml

from trainer import path_roots
from worker.backends.interface import Submission
from worker.backends.shell_templates import templates
from worker.backends.slurm.exit_codes import CLAIMED, NO_SECRETS, UNPREPARED
from worker.backends.slurm.images import Image
from worker.backends.slurm.paths import Paths
from worker.clusters.profiles import SlurmCluster
from worker.runs.run import Run

# A signal that comes so much earlier than requested still counts as the warning of the time limit: Slurm
# sends it up to a minute early.
EARLY_SECONDS = 90

_TEMPLATES = templates("worker.backends.slurm")


def render(run: Run, profile: SlurmCluster, paths: Paths) -> Submission:
    """Render config, batch script and node script."""
    directory = paths.job(run.job_id).attempt(run.attempt).directory
    scope = _scope(run, profile, paths, directory)
    return Submission(
        name=run.name,
        directory=str(directory),
        files={
            "config.yaml": yaml.safe_dump(run.config, sort_keys=True, allow_unicode=True),
            "job.sh": _TEMPLATES.get_template("job.sh.j2").render(scope),
            "node.sh": _TEMPLATES.get_template("node.sh.j2").render(scope),
        },
        command=["sbatch", "--parsable", "job.sh"],
        secrets=dict(run.secrets),
        image=profile.container_image,
        fresh_image=run.fresh_image,
    )


def _scope(run: Run, profile: SlurmCluster, paths: Paths, directory: Path) -> dict[str, Any]:
    """Return the variables of the templates."""
    return {
        "run": run,
        "profile": profile,
        "paths": paths,
        "directory": directory,
        "options": options(profile, partition=profile.partition_of(attached=run.attached))
        + _sizes(run, profile),
        "lead": lead_seconds(run, profile),
        "near_the_end": _near_the_end(run, profile),
        "mounts": ",".join([f"{paths.root}:{paths.root}", *profile.mounts]),
        "image": profile.container_image,
        "umask": f"{profile.umask:03o}",
        "roots": path_roots.variable(profile.roots),
        "claimed": CLAIMED,
        "unprepared": UNPREPARED,
        "no_secrets": NO_SECRETS,
    }


def render_import(image: Image, profile: SlurmCluster, paths: Paths, *, fresh: bool) -> str:
    """Render the job that imports a container image."""
    partition = profile.build_partition or profile.partition_of(attached=False)
    return _TEMPLATES.get_template("import.sh.j2").render(
        name=image.job_name, key=image.key, uri=image.uri, fresh=fresh, paths=paths, profile=profile,
        options=options(profile, partition=partition),
    )  # fmt: skip


def options(profile: SlurmCluster, *, partition: str | None) -> list[tuple[str, str]]:
    """Return the sbatch options for account and placement."""
    named = {
        "account": profile.account,
        "partition": partition,
        "qos": profile.qos,
        "reservation": profile.reservation,
        "constraint": profile.constraint,
    }
    return [(name, value) for name, value in named.items() if value]


def _sizes(run: Run, profile: SlurmCluster) -> list[tuple[str, str]]:
    minutes = run.resources.time_limit_minutes
    wanted = {
        "nodes": run.resources.nodes,
        "ntasks-per-node": 1,
        # A CPU run uses gpus_per_node as its number of processes.
        "gpus-per-node": run.resources.gpus_per_node if run.config.get("device") != "cpu" else None,
        "cpus-per-task": profile.cpus_per_task,
        "mem": profile.mem,
        "time": f"{minutes // 60:02}:{minutes % 60:02}:00",
    }
    return [(name, str(value)) for name, value in wanted.items() if value is not None]


def lead_seconds(run: Run, profile: SlurmCluster) -> int:
    """Return how many seconds before its time limit a run is asked to save; at most half of its time."""
    return min(profile.signal_seconds, run.resources.time_limit_minutes * 30)


def _near_the_end(run: Run, profile: SlurmCluster) -> int:
    limit = run.resources.time_limit_minutes * 60
    return max(limit - lead_seconds(run, profile) - EARLY_SECONDS, 0)
