"""One Lepton workspace: a job is created once, watched by one list, and mirrored by its logs."""

import json
import re
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import sample

from trainer.preflight.remote import ConfigRequest, DataRequest, InspectionResult, inspect
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
from worker.backends.lepton.observations import Watch, is_over
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

# So late the log of a run that has completed may show its end.
LATE_SECONDS = 300.0
LARGEST_EVENTS_BYTES = 256 << 20


@dataclass(frozen=True)
class LeptonBackend:
    """A workspace that is spoken to over HTTP."""

    profile: LeptonCluster
    mirror: Path
    """Where the service keeps what it knows of the workspace's jobs, in place of remote_job_dir."""
    must_collect: bool = True

    @property
    def settle_seconds(self) -> float:
        return 0.0  # collect() waits for what is late

    @property
    def workspace(self) -> Workspace:
        return workspace(self.profile.api_url, self.profile.token)

    def job_directory(self, job_id: str) -> Path:
        return job_layout(self.profile.remote_job_dir, job_id).directory

    def render(self, run: Run) -> Submission:
        return render(run, self.profile)

    def files(self) -> Files:
        return LeptonFiles(self.profile, self.mirror)

    def look(self, request: ConfigRequest | DataRequest) -> InspectionResult | None:
        return inspect(request) if self.profile.sees_files else None

    # -- submitting -----------------------------------------------------------------------------

    def submit(self, submission: Submission) -> str:
        notes = self._notes(submission.layout)
        with notes.alone():
            if known := notes.external_id:
                return known
            if notes.age(ABANDONED):
                raise BackendUnavailable("This attempt was given up.")
            if found := self._tried_before(submission, notes):
                notes.note_external_id(found)
                return found
            created = self._create(submission, notes)
            notes.note_external_id(created)
            return created

    def _tried_before(self, submission: Submission, notes: Notes) -> str | None:
        """The job that an earlier try has made, if its answer was lost."""
        if not notes.age(TRIED):
            return None
        if found := self.find(submission.handle("")):
            return found
        # The list may lag, and nobody knows when a call ended whose caller was killed: not after this.
        notes.note(UNSEEN)
        if (notes.age(UNSEEN) or 0) < self.profile.unseen_seconds:
            raise BackendUnavailable("It is not known whether Lepton has the job; it is asked again.")
        return None

    def _create(self, submission: Submission, notes: Notes) -> str:
        body = self._body(submission)
        notes.note_limit(json.loads(submission.files[BODY])["metadata"]["labels"][LIMIT_LABEL])
        notes.forget(UNSEEN)
        notes.renew(TRIED)
        try:
            return self.workspace.create(body).metadata.id or ""
        except (SubmissionRejected, Taken) as refusal:
            # What is refused may be the double of a job that an earlier try has made.
            if found := self.find(submission.handle("")):
                return found
            if isinstance(refusal, Taken):
                message = "Lepton has the job already, and does not show it yet."
                raise BackendUnavailable(message) from None
            notes.forget(TRIED)
            raise

    def _body(self, submission: Submission) -> dict[str, object]:
        known = self.profile.secrets
        if gone := [secret for secret in submission.secrets.values() if secret not in known]:
            raise SubmissionRejected(
                f"The cluster's profile has no secret {gone[0]!r} any more.",
                hint="Name another one, or have it put back into the profile.",
            )
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
        """With the mount by its claim; without it only what was never created: nobody knows what runs."""
        notes = self._notes(handle.submitted)
        with notes.alone():
            if self.profile.can_pause:
                given_up = attempt_claim.abandon(handle.layout, self.files())
            else:
                given_up = not handle.external_id and notes.external_id is None
            if given_up:
                notes.note(ABANDONED)
            return given_up

    # -- asking ---------------------------------------------------------------------------------

    def poll(self, handles: Collection[Handle]) -> dict[str, Observation]:
        alive = {job.metadata.id: job for job in self.workspace.jobs()}
        watch = Watch(self.workspace)
        seen = {
            one.name: watch.observe(one, alive.get(one.external_id), self._notes(one.submitted))
            for one in sample(list(handles), len(handles))  # a poll has not questions for all
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
        mirror = Mirror(self._mirrored(handle.layout), lines, began=notes.at(TRIED) or time.time())
        if not mirror.advance(is_over=is_over, settle_seconds=self.profile.settle_seconds):
            return False
        if not mirror.has_ended:
            mirror.add_events(self._own_events(handle.layout))
        if mirror.has_ended or not notes.age(COMPLETED):
            return True
        # All replicas exited with 0: a last word is on its way.
        return mirror.advance(is_over=is_over, settle_seconds=LATE_SECONDS)

    def _own_events(self, layout: RunLayout) -> bytes:
        """What the run itself has written, where the service has its storage."""
        with suppress(NotReachable, FileNotFoundError):
            path = LeptonFiles(self.profile, self.mirror).mounted(layout.events)
            return LocalFiles().read(path, 0, LARGEST_EVENTS_BYTES)
        return b""

    def _notes(self, layout: RunLayout) -> Notes:
        return Notes(self._mirrored(layout).directory)

    def _mirrored(self, layout: RunLayout) -> RunLayout:
        return RunLayout(LeptonFiles(self.profile, self.mirror).mirrored(layout.directory))


def _is_run(job: wire.Job, name: str) -> bool:
    """Whether a job is the run of this name: by its label, or by its id, to which Lepton may add a suffix."""
    label = (job.metadata.labels or {}).get(RUN_LABEL)
    job_id = job.metadata.id or ""
    return label == name or (label is None and re.fullmatch(rf"{name}(-[a-z0-9]+)?", job_id) is not None)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
