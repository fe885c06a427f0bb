"""One Lepton workspace: creates a job once, polls all jobs by one list, and mirrors runs from their logs."""

import json
import re
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import sample

from trainer.preflight.remote import ConfigRequest, DataRequest, InspectionResult
from trainer.run_layout import RunLayout
from worker.backends import attempt_claim
from worker.backends.access.files import Files
from worker.backends.access.local_files import LocalFiles
from worker.backends.interface import Handle, Submission
from worker.backends.lepton import environment_bundle, wire
from worker.backends.lepton.client import EVER, Taken, Workspace, workspace
from worker.backends.lepton.lepton_files import LeptonFiles
from worker.backends.lepton.log_mirror import Mirror
from worker.backends.lepton.notes import ABANDONED, COMPLETED, TRIED, UNSEEN, Notes
from worker.backends.lepton.observations import WorkspacePoll, is_over
from worker.backends.lepton.rendering import (
    BODY,
    CONFIG,
    LIMIT_LABEL,
    RUN_LABEL,
    job_layout,
    lepton_name,
    render,
)
from worker.clusters.profiles import LeptonCluster
from worker.errors import BackendUnavailable, NotReachable, SubmissionRejected
from worker.runs.observation import Observation
from worker.runs.run import Run
from worker.sandbox import inspections

# For so long after a completed run its log may still lack the end marker.
LATE_SECONDS = 300.0
# The end of the run's own events: what its log may lack.
MAX_EVENTS_BYTES = 32 << 20


@dataclass(frozen=True)
class LeptonBackend:
    """A workspace that is used over HTTP."""

    profile: LeptonCluster
    mirror: Path
    """The service's own directory for the workspace's jobs; it mirrors remote_job_dir."""
    must_collect: bool = True

    @property
    def settle_seconds(self) -> float:
        return 0.0  # collect() waits for late lines

    @property
    def workspace(self) -> Workspace:
        return workspace(self.profile.api_url, self.profile.token)

    def job_directory(self, job_id: str) -> Path:
        return job_layout(self.profile.remote_job_dir, job_id).directory

    def render(self, run: Run) -> Submission:
        return render(run, self.profile)

    def files(self) -> Files:
        return LeptonFiles(self.profile, self.mirror)

    def inspect(self, request: ConfigRequest | DataRequest) -> InspectionResult | None:
        return inspections.inspect(request) if self.profile.sees_files else None

    # -- submitting -----------------------------------------------------------------------------

    def submit(self, submission: Submission) -> str:
        notes = self._notes(submission.layout)
        with notes.locked():
            if known := notes.external_id:
                return known
            if notes.age(ABANDONED):
                raise BackendUnavailable("This attempt was abandoned.")
            if found := self._created_before(submission, notes):
                notes.set_external_id(found)
                return found
            created = self._create(submission, notes)
            notes.set_external_id(created)
            return created

    def _created_before(self, submission: Submission, notes: Notes) -> str | None:
        """Return the id of the job that an earlier try has created, if its answer was lost."""
        if not notes.age(TRIED):
            return None
        if found := self.find(submission.handle("")):
            return found
        # The list may lag. The wait counts from the first list without the job: a killed caller's request
        # ends at an unknown time, but before this note.
        notes.set_once(UNSEEN)
        if (notes.age(UNSEEN) or 0) < self.profile.unseen_seconds:
            raise BackendUnavailable(
                "It is not known whether Lepton has the job. The service will ask Lepton again."
            )
        return None

    def _create(self, submission: Submission, notes: Notes) -> str:
        body = self._body(submission)
        notes.set_time_limit(json.loads(submission.files[BODY])["metadata"]["labels"][LIMIT_LABEL])
        notes.remove(UNSEEN)
        notes.renew(TRIED)
        try:
            return self.workspace.create(body).metadata.id or ""
        except (SubmissionRejected, Taken) as error:
            # The rejected job may be a duplicate of one that an earlier try has created.
            if found := self.find(submission.handle("")):
                return found
            if isinstance(error, Taken):
                message = "Lepton has the job already, and its list does not show the job yet."
                raise BackendUnavailable(message) from None
            notes.remove(TRIED)
            raise

    def _body(self, submission: Submission) -> dict[str, object]:
        self.profile.require_secrets(submission.secrets.values())
        body: dict[str, dict[str, object]] = json.loads(submission.files[BODY])
        packed = environment_bundle.variables(submission.files[CONFIG])
        envs = [wire.EnvVar(name=name, value=value).body() for name, value in packed.items()]
        return {**body, "spec": {**body["spec"], "envs": [*_list(body["spec"].get("envs")), *envs]}}

    def find(self, handle: Handle) -> str | None:
        label = lepton_name(handle.name)
        found = [job for job in self.workspace.jobs(EVER, name=label) if _is_run(job, label)]
        alive = [job for job in found if not is_over(job)]
        first = min(alive or found, key=lambda job: job.metadata.created_at or 0, default=None)
        return first.metadata.id if first else None

    def abandon(self, handle: Handle) -> bool:
        """Use the claim if the service has the mount; else abandon only a job that was never created."""
        notes = self._notes(handle.submitted)
        with notes.locked():
            if self.profile.can_pause:
                is_abandoned = attempt_claim.abandon(handle.layout, self.files())
            else:
                is_abandoned = not handle.external_id and notes.external_id is None
            if is_abandoned:
                notes.set_once(ABANDONED)
            return is_abandoned

    # -- polling --------------------------------------------------------------------------------

    def poll(self, handles: Collection[Handle]) -> dict[str, Observation]:
        alive = {job.metadata.id: job for job in self.workspace.jobs()}
        workspace_poll = WorkspacePoll(self.workspace)
        # In random order: one poll may query only MAX_QUERIES jobs.
        seen = {
            one.name: workspace_poll.observe(one, alive.get(one.external_id), self._notes(one.submitted))
            for one in sample(list(handles), len(handles))
        }
        return {name: observation for name, observation in seen.items() if observation}

    def cancel(self, handle: Handle) -> None:
        self.workspace.stop(handle.external_id)

    def collect(self, handle: Handle, *, is_over: bool) -> bool:
        if not handle.external_id:
            return is_over
        try:
            return self._mirror(handle, is_over=is_over)
        except OSError as error:
            raise BackendUnavailable(f"The mirror of the run cannot be written: {error}") from error

    def _mirror(self, handle: Handle, *, is_over: bool) -> bool:
        notes = self._notes(handle.submitted)
        lines = partial(self.workspace.lines, handle.external_id)
        mirror = Mirror(self._mirrored(handle.layout), lines, started=notes.at(TRIED) or time.time())
        if not mirror.advance(is_over=is_over, settle_seconds=self.profile.settle_seconds):
            return False
        if not mirror.has_ended:
            mirror.add_events(self._own_events(handle.layout))
        if mirror.has_ended or not notes.age(COMPLETED):
            return True
        # All replicas exited with 0, so the end event will still arrive.
        return mirror.advance(is_over=is_over, settle_seconds=LATE_SECONDS)

    def _own_events(self, layout: RunLayout) -> bytes:
        """Return the end of the events file that the run wrote, if the service has the mount."""
        with suppress(NotReachable, FileNotFoundError):
            mounted = LeptonFiles(self.profile, self.mirror).mounted
            path, below = mounted(layout.events), mounted(layout.job.directory.parent)
            begin = max(0, LocalFiles().stat(path, below).size - MAX_EVENTS_BYTES)
            return LocalFiles().read(path, begin, MAX_EVENTS_BYTES, below)
        return b""

    def _notes(self, layout: RunLayout) -> Notes:
        return Notes(self._mirrored(layout).directory)

    def _mirrored(self, layout: RunLayout) -> RunLayout:
        return RunLayout(LeptonFiles(self.profile, self.mirror).mirrored(layout.directory))


def _is_run(job: wire.LeptonJob, name: str) -> bool:
    """Return whether a job is the run of this name, by label or by id; Lepton may add a suffix to the id."""
    label = (job.metadata.labels or {}).get(RUN_LABEL)
    job_id = job.metadata.id or ""
    return label == name or (label is None and re.fullmatch(rf"{name}(-[a-z0-9]+)?", job_id) is not None)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
