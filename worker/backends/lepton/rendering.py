"""Render a run as a Lepton job. Pure: the same run and profile give the same bytes."""

import hashlib
import json
import re
from importlib import resources
from pathlib import Path

import yaml

from trainer import path_roots
from trainer.run_layout import JobLayout
from worker.backends.interface import Submission
from worker.backends.lepton import wire
from worker.backends.shell_templates import templates
from worker.clusters.profiles import LeptonCluster
from worker.runs.run import Run

# Lepton's limit of a name, and of the suffix that it may add.
MAX_NAME_CHARACTERS = 36
SUFFIX_CHARACTERS = 6
RUN_LABEL, JOB_LABEL, LIMIT_LABEL = "sft-run", "sft-job", "sft-limit-seconds"
# Exit codes of a replica itself, in addition to those of the launcher (sysexits.h).
CLAIMED, UNPREPARED = 75, 78
BODY, CONFIG = "job.json", "config.yaml"
"""Files of a submission: the body of POST /jobs without SFT_BUNDLE_*, and the config that those contain."""

_TEMPLATES = templates("worker.backends.lepton")
_UNPACK = (resources.files("worker.backends.lepton") / "templates" / "unpack.py").read_text()


def render(run: Run, profile: LeptonCluster) -> Submission:
    """Return the submission with the body of POST /jobs."""
    directory = job_layout(profile.remote_job_dir, run.job_id).attempt(run.attempt).directory
    job = wire.LeptonJob(metadata=_metadata(run), spec=_spec(run, profile, _script(run, profile, directory)))
    body = _with_custom(job.body(), profile)
    return Submission(
        name=run.name,
        directory=str(directory),
        files={
            CONFIG: yaml.safe_dump(run.config, sort_keys=True, allow_unicode=True),
            BODY: json.dumps(body, indent=2, sort_keys=True) + "\n",
        },
        command=["POST", f"{profile.api_url}/jobs", BODY],
        secrets=dict(run.secrets),
        image=profile.container_image,
    )


def job_layout(root: Path, job_id: str) -> JobLayout:
    """Return the layout of a job's directory in the container."""
    return JobLayout(root / "jobs" / job_id)


def lepton_name(run_name: str) -> str:
    """Return a valid Lepton name, unique for each attempt, short enough for a suffix added by Lepton."""
    plain = re.sub(r"[^a-z0-9-]", "-", run_name.lower()).strip("-")
    if not plain[:1].isalpha():
        plain = f"sft-{plain}"
    longest = MAX_NAME_CHARACTERS - SUFFIX_CHARACTERS
    if len(plain) <= longest:
        return plain
    digest = hashlib.sha256(run_name.encode()).hexdigest()[:8]
    return f"{plain[: longest - 9].rstrip('-')}-{digest}"


def _metadata(run: Run) -> wire.Metadata:
    name = lepton_name(run.name)
    limit = run.resources.time_limit_minutes * 60
    return wire.Metadata(id=name, labels={RUN_LABEL: name, JOB_LABEL: run.job_id, LIMIT_LABEL: str(limit)})


def _script(run: Run, profile: LeptonCluster, directory: Path) -> str:
    limit = run.resources.time_limit_minutes * 60
    return _TEMPLATES.get_template("run.sh.j2").render(
        run=run, profile=profile, directory=directory, unpack=_UNPACK, umask=f"{profile.umask:03o}",
        roots=path_roots.variable(profile.roots), limit=limit, lead=min(profile.signal_seconds, limit // 2),
        claimed=CLAIMED, unprepared=UNPREPARED,
    )  # fmt: skip


def _spec(run: Run, profile: LeptonCluster, script: str) -> wire.LeptonJobSpec:
    return wire.LeptonJobSpec(
        resource_shape=profile.resource_shape,
        affinity=wire.Affinity(allowed_dedicated_node_groups=[profile.node_group])
        if profile.node_group
        else None,
        container=wire.Container(image=profile.container_image, command=["/bin/bash", "-c", script]),
        shared_memory_size=profile.shared_memory_size,
        completions=run.resources.nodes,
        parallelism=run.resources.nodes,
        # Lepton must not restart a run: only the service does, as a new attempt.
        max_failure_retry=0,
        max_job_failure_retry=0,
        envs=_environment(run, profile),
        mounts=[
            wire.Mount(path=one.path, from_=one.from_, mount_path=str(one.mount_path))
            for one in profile.mounts
        ],
        image_pull_secrets=profile.image_pull_secrets or None,
        ttl_seconds_after_finished=profile.ttl_seconds_after_finished,
        intra_job_communication=True,
        log=wire.LogCollection(enable_collection=True),
        queue_config=wire.QueueConfig(**profile.queue.model_dump()) if profile.queue else None,
        reservation_config=wire.Reservation(reservation_id=profile.node_reservation)
        if profile.node_reservation
        else None,
    )  # fmt: skip


def _environment(run: Run, profile: LeptonCluster) -> list[wire.EnvVar]:
    """Return the environment. Lepton fills in secrets by name; the job's override the profile's."""
    known = {name: profile.secrets[one].name for name, one in run.secrets.items() if one in profile.secrets}
    refs = {**profile.secret_vars, **known}
    plain = [
        wire.EnvVar(name=name, value=value) for name, value in profile.env_vars.items() if name not in refs
    ]
    return plain + [
        wire.EnvVar(name=name, value_from=wire.SecretRef(secret_name_ref=ref)) for name, ref in refs.items()
    ]


def _with_custom(body: dict[str, object], profile: LeptonCluster) -> dict[str, object]:
    """Add the profile's custom_spec; the profile's own fields take precedence."""
    return {**body, "spec": {**profile.custom_spec, **body["spec"]}}  # type: ignore[dict-item]
