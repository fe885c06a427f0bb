"""One Slurm cluster: submits once, polls all jobs in one call, and trusts a job id only with its name."""

import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from trainer.preflight.remote import ConfigRequest, DataRequest, InspectionResult
from trainer.run_layout import RunLayout
from trainer.sources import code_hash
from worker.backends.access.files import Files
from worker.backends.access.transport import Answer, Transport
from worker.backends.attempt_claim import abandon
from worker.backends.interface import Handle, Submission
from worker.backends.slurm import code_staging, remote_inspection
from worker.backends.slurm.command_output import (
    ACCOUNTING_DISABLED,
    ENVIRONMENT,
    HISTORY,
    QUEUE,
    UNKNOWN_JOB,
    Row,
    history_rows,
    queue_rows,
    submission_error,
)
from worker.backends.slurm.exit_codes import CLAIMED
from worker.backends.slurm.image_imports import ImageImports
from worker.backends.slurm.job_id_file import read_job_id
from worker.backends.slurm.observations import GONE, UNANSWERED, chosen, observation
from worker.backends.slurm.paths import Paths
from worker.backends.slurm.rendering import render
from worker.backends.slurm.timeouts import QUERY_SECONDS, SUBMIT_SECONDS
from worker.clusters.profiles import SlurmCluster
from worker.errors import BackendUnavailable, SubmissionRejected
from worker.runs.observation import Observation, Phase
from worker.runs.run import Run
from worker.sandbox import inspections
from worker.telemetry.logging import logger

log = logger(__name__)

HISTORY_BEGIN = "now-30days"
_SUBMIT = (resources.files("worker.backends.slurm") / "templates" / "submit.sh").read_text()


@dataclass(frozen=True)
class SlurmBackend:
    """A cluster that is used through Slurm's commands."""

    profile: SlurmCluster
    transport: Transport
    must_collect: bool = False

    @property
    def paths(self) -> Paths:
        return Paths(self.profile.remote_job_dir, code_hash())

    @property
    def settle_seconds(self) -> float:
        return self.profile.settle_seconds

    def job_directory(self, job_id: str) -> Path:
        return self.paths.job(job_id).directory

    def render(self, run: Run) -> Submission:
        return render(run, self.profile, self.paths)

    def files(self) -> Files:
        return self.transport.files()

    def inspect(self, request: ConfigRequest | DataRequest) -> InspectionResult | None:
        if self.profile.sees_files:
            return inspections.inspect(request)
        if self.profile.login_python is None:
            return None
        code_staging.stage(self.paths.code, self.transport)
        return remote_inspection.inspect(
            request, python=self.profile.login_python, code=self.paths.code, transport=self.transport
        )

    # -- submitting -----------------------------------------------------------------------------

    def submit(self, submission: Submission) -> str:
        layout = submission.layout
        if known := read_job_id(layout.external_id, self.files()):
            return known
        try:
            return self._submit_once(submission, layout)
        except SubmissionRejected:
            self.files().remove(layout.secrets)
            raise

    def _submit_once(self, submission: Submission, layout: RunLayout) -> str:
        self._place(submission, layout)
        options = self._images.options(submission, layout)
        self._place_secrets(submission, layout)
        answer = self._submit(layout.directory, "first", options)
        if answer.code == CLAIMED:
            if known := self.find(submission.handle("")):
                return known
            answer = self._submit(layout.directory, "again", options)
        if answer.code != 0:
            raise _submission_error(answer)
        return answer.out.strip()

    def _place(self, submission: Submission, layout: RunLayout) -> None:
        code_staging.stage(self.paths.code, self.transport)
        files = self.files()
        files.make_directory(layout.logs)
        for name, content in submission.files.items():
            files.write(layout.directory / name, content.encode())

    def _place_secrets(self, submission: Submission, layout: RunLayout) -> None:
        """Write the secrets as the last step before sbatch: an earlier failure leaves none on the cluster."""
        if submission.secrets:
            self.files().write(layout.secrets, self._secrets(submission).encode())

    def _secrets(self, submission: Submission) -> str:
        self.profile.require_secrets(submission.secrets.values())
        known = self.profile.secrets
        values = {name: known[secret].value() for name, secret in submission.secrets.items()}
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())

    def _submit(self, directory: Path, mode: str, options: list[str]) -> Answer:
        command = ["bash", "-s", "--", str(directory), mode, *options]
        return self.transport.run(command, stdin=_SUBMIT, timeout=SUBMIT_SECONDS)

    @property
    def _images(self) -> ImageImports:
        return ImageImports(self.profile, self.paths, self.transport, self._queue)

    def abandon(self, handle: Handle) -> bool:
        is_abandoned = abandon(handle.layout, self.files())
        if is_abandoned:
            self.files().remove(handle.submitted.secrets)
        return is_abandoned

    def collect(self, handle: Handle, *, is_over: bool) -> bool:  # noqa: ARG002
        return True

    # -- polling --------------------------------------------------------------------------------

    def find(self, handle: Handle) -> str | None:
        name = handle.name
        rows = [row for row in self._queue() if row.name == name]
        if not rows:
            # Pending in accounting but not in the queue: the controller lost the job with its state.
            found = self._history(["--name", name, "--starttime", HISTORY_BEGIN]) or []
            rows = [row for row in found if row.name == name and row.state != "PENDING"]
        return chosen(rows).job_id if rows else read_job_id(handle.submitted.claim, self.files())

    def poll(self, handles: Collection[Handle]) -> dict[str, Observation]:
        wanted = {one.name: one for one in handles}
        queued = _by_name(self._queue(), wanted)
        seen = {name: observation(chosen(rows)) for name, rows in queued.items()}
        self._cancel_duplicates(queued)
        missing = [one for name, one in wanted.items() if name not in queued]
        changes = {**(self._past(missing) if missing else {}), **{k: v for k, v in seen.items() if v}}
        return {name: self._images.with_log(wanted[name], one) for name, one in changes.items()}

    def _past(self, handles: list[Handle]) -> dict[str, Observation]:
        """Return observations from accounting, for jobs that are no longer in the queue."""
        rows = self._history(["--jobs", ",".join(one.external_id for one in handles)])
        unknown = UNANSWERED if rows is None else GONE
        found = _by_name(rows or [], {one.name: one for one in handles})
        unreadable = {name for name, rows in found.items() if not rows[-1].is_readable}
        past = {name: _last(rows) for name, rows in found.items()}
        over = {
            name: seen
            for name, seen in past.items()
            if seen and seen.phase in (Phase.ENDED, Phase.INTERRUPTED)
        }
        return {one.name: over.get(one.name, unknown) for one in handles if one.name not in unreadable}

    def _cancel_duplicates(self, queued: dict[str, list[Row]]) -> None:
        """Cancel pending duplicates: one job of a name keeps the attempt, the others must never start."""
        for name, rows in queued.items():
            kept = chosen(rows)
            for row in rows:
                if kept.is_readable and row is not kept and row.state == "PENDING":
                    self._cancel(name, row.job_id)

    def _queue(self) -> list[Row]:
        answer = self._run(QUEUE)
        return queue_rows(answer.out)

    def _history(self, selection: list[str]) -> list[Row] | None:
        """Return rows of the accounting, oldest first; [] if accounting is disabled, None if it is down."""
        try:
            answer = self.transport.run([*HISTORY, *selection], timeout=QUERY_SECONDS)
        except BackendUnavailable as error:  # sacct may hang while squeue answers
            log.warning("slurm.no_accounting", cluster=self.profile.name, error=error.message)
            return None
        if answer.code != 0:
            return [] if ACCOUNTING_DISABLED in answer.err else None
        return history_rows(answer.out)

    def cancel(self, handle: Handle) -> None:
        # By name alone: the id may belong to another job by now, and a duplicate submission has two ids.
        self._cancel(handle.name)

    def _cancel(self, name: str, *ids: str) -> None:
        self._run([*ENVIRONMENT, "scancel", f"--name={name}", *ids], accepted_error=UNKNOWN_JOB)

    def _run(self, command: Iterable[str], accepted_error: str | None = None) -> Answer:
        """Run a command. Raises BackendUnavailable if it fails, unless with the accepted error text."""
        answer = self.transport.run(list(command), timeout=QUERY_SECONDS)
        if answer.code != 0 and (accepted_error is None or accepted_error not in answer.err):
            message = " ".join(answer.err.split())[-300:]
            raise BackendUnavailable(f"Slurm on {self.transport.description} does not answer: {message}")
        return answer


def _submission_error(answer: Answer) -> BackendUnavailable | SubmissionRejected:
    if answer.code in (CLAIMED, 124):
        message = answer.err.strip()[-300:] or "no answer in time"
        return BackendUnavailable(
            f"It is not known whether Slurm has the job. The service will ask Slurm again: {message}"
        )
    return submission_error(answer.code, answer.err)


def _last(rows: list[Row]) -> Observation | None:
    """Return the observation of a job's last row: accounting has one row for each start of the job."""
    seen = observation(rows[-1])
    return replace(seen, restarts=sum(row.job_id == rows[-1].job_id for row in rows) - 1) if seen else None


def _by_name(rows: Iterable[Row], wanted: Collection[str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.name in wanted:
            if not row.is_readable:
                log.warning("slurm.unreadable_row", row=row.raw)
            found.setdefault(row.name, []).append(row)
    return found
