"""One Slurm cluster: submits once, looks at all jobs in one go, and believes an id only with its name."""

import shlex
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from trainer.preflight.remote import ConfigRequest, DataRequest, InspectionResult, inspect
from trainer.run_layout import RunLayout
from worker.backends.access.files import Files
from worker.backends.access.transport import Answer, Transport
from worker.backends.attempt_claim import abandon
from worker.backends.interface import Handle, Submission
from worker.backends.slurm import code_staging, images, remote_inspection
from worker.backends.slurm.command_output import (
    ACCOUNTING_DISABLED,
    ENVIRONMENT,
    HISTORY,
    QUEUE,
    UNKNOWN_JOB,
    Row,
    history_rows,
    queue_rows,
    refusal,
)
from worker.backends.slurm.exit_codes import CLAIMED
from worker.backends.slurm.images import Image
from worker.backends.slurm.observations import GONE, UNANSWERED, chosen, observation
from worker.backends.slurm.paths import Paths
from worker.backends.slurm.rendering import render, render_import
from worker.backends.trainer_bundle import code_hash
from worker.clusters.profiles import SlurmCluster
from worker.errors import BackendUnavailable, SubmissionRejected
from worker.runs.observation import Observation, ObservationCode, Phase
from worker.runs.run import Run
from worker.telemetry.logging import logger

log = logger(__name__)

# Slurm's own clients give up after MessageTimeout, 10 s by default, or 9 s without a controller.
QUERY_SECONDS = 20.0
SUBMIT_SECONDS = 70.0
HISTORY_BEGIN = "now-30days"
_SUBMIT = (resources.files("worker.backends.slurm") / "templates" / "submit.sh").read_text()


@dataclass(frozen=True)
class SlurmBackend:
    """A cluster that is spoken to by Slurm's commands."""

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

    def look(self, request: ConfigRequest | DataRequest) -> InspectionResult | None:
        if self.profile.sees_files:
            return inspect(request)
        if self.profile.login_python is None:
            return None
        code_staging.stage(self.paths.code, self.transport)
        return remote_inspection.look(
            request, python=self.profile.login_python, code=self.paths.code, transport=self.transport
        )

    # -- submitting -----------------------------------------------------------------------------

    def submit(self, submission: Submission) -> str:
        layout = submission.layout
        if known := self._number_in(layout.external_id):
            return known
        try:
            return self._submit_once(submission, layout)
        except SubmissionRejected:
            self.files().remove(layout.secrets)
            raise

    def _submit_once(self, submission: Submission, layout: RunLayout) -> str:
        self._place(submission, layout)
        options = self._image(submission, layout)
        self._place_secrets(submission, layout)
        answer = self._submit(layout.directory, "first", options)
        if answer.code == CLAIMED:
            if known := self.find(submission.handle("")):
                return known
            answer = self._submit(layout.directory, "again", options)
        if answer.code != 0:
            raise _refused(answer)
        return answer.out.strip()

    def _place(self, submission: Submission, layout: RunLayout) -> None:
        code_staging.stage(self.paths.code, self.transport)
        files = self.files()
        files.make_directory(layout.logs)
        for name, content in submission.files.items():
            files.write(layout.directory / name, content.encode())

    def _place_secrets(self, submission: Submission, layout: RunLayout) -> None:
        """The last thing before the scheduler is asked: what fails until then leaves none behind."""
        if submission.secrets:
            self.files().write(layout.secrets, self._secrets(submission).encode())

    def _secrets(self, submission: Submission) -> str:
        known = self.profile.secrets
        if gone := [secret for secret in submission.secrets.values() if secret not in known]:
            raise SubmissionRejected(
                f"The cluster's profile has no secret {gone[0]!r} any more.",
                hint="Name another one, or have it put back into the profile.",
            )
        values = {name: known[secret].value() for name, secret in submission.secrets.items()}
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())

    def _submit(self, directory: Path, mode: str, options: list[str]) -> Answer:
        command = ["bash", "-s", "--", str(directory), mode, *options]
        return self.transport.run(command, stdin=_SUBMIT, timeout=SUBMIT_SECONDS)

    # -- images ---------------------------------------------------------------------------------

    def _image(self, submission: Submission, layout: RunLayout) -> list[str]:
        """Options that let the run wait for its container image, where that has to be imported."""
        if submission.image is None:
            return []
        image = images.resolved(Image.of(submission.image, self.paths), self.transport)
        self.files().write(layout.image, f"{image.file}\n".encode())
        if image.is_file or (not submission.fresh_image and image.file in self._images()):
            return []
        importing = self._fresh(image, layout) if submission.fresh_image else self._import(image)
        return [f"--dependency=afterok:{importing}", "--kill-on-invalid-dep=yes"]

    def _fresh(self, image: Image, layout: RunLayout) -> str:
        """Id of the import that this attempt asked for: one, however often it is submitted."""
        if known := self._number_in(layout.image_import):
            return known
        importing = self._submit_import(image, fresh=True)
        self.files().write(layout.image_import, f"{importing}\n".encode())
        return importing

    def _images(self) -> list[Path]:
        """The links of the imported images: those that lead somewhere."""
        command = ["find", "-L", str(self.paths.images), "-maxdepth", "1", "-name", "*.sqsh", "-type", "f"]
        answer = self.transport.run(command, timeout=QUERY_SECONDS)
        return [Path(line) for line in answer.out.splitlines()]

    def _import(self, image: Image) -> str:
        """Id of the job that imports an image: one that is in the queue already, or a new one."""
        queue = [
            row for row in self._queue() if row.name == image.job_name and row.state in ("PENDING", "RUNNING")
        ]
        return queue[0].job_id if queue else self._submit_import(image, fresh=False)

    def _submit_import(self, image: Image, *, fresh: bool) -> str:
        self.files().make_directory(self.paths.images)
        script = render_import(image, self.profile, self.paths, fresh=fresh)
        answer = self.transport.run(["sbatch", "--parsable"], stdin=script, timeout=SUBMIT_SECONDS)
        if answer.code != 0:
            raise refusal(answer.code, answer.err)
        return answer.out.strip().partition(";")[0]

    def _with_import_log(self, handle: Handle, seen: Observation) -> Observation:
        """Where the import of its image failed, the end of what that has written."""
        if seen.code is not ObservationCode.IMAGE_PULL:
            return seen
        with suppress(FileNotFoundError, BackendUnavailable):
            files = self.files()
            image = files.read(handle.submitted.image, 0, 4096).decode().strip()
            log = images.log_of_import(Path(image))
            said = files.read(log, max(0, files.stat(log).size - 1000), 1000).decode(errors="replace")
            return replace(seen, message=f"{seen.message} {log} ends with: {' '.join(said.split())[-300:]}")
        return seen

    def abandon(self, handle: Handle) -> bool:
        given_up = abandon(handle.layout, self.files())
        if given_up:
            self.files().remove(handle.submitted.secrets)
        return given_up

    def collect(self, handle: Handle, *, is_over: bool) -> bool:  # noqa: ARG002
        return True

    # -- asking ---------------------------------------------------------------------------------

    def find(self, handle: Handle) -> str | None:
        name = handle.name
        rows = [row for row in self._queue() if row.name == name]
        if not rows:
            # A row that still waits while the queue does not have it was lost with the controller's state.
            found = self._history(["--name", name, "--starttime", HISTORY_BEGIN]) or []
            rows = [row for row in found if row.name == name and row.state != "PENDING"]
        return chosen(rows).job_id if rows else self._number_in(handle.submitted.claim)

    def _number_in(self, path: Path) -> str | None:
        """The id that a file holds; None where it is not there, or holds something else."""
        with suppress(FileNotFoundError):
            text = self.files().read(path, 0, 32).decode(errors="replace").strip()
            return text if text.isdigit() else None
        return None

    def poll(self, handles: Collection[Handle]) -> dict[str, Observation]:
        wanted = {one.name: one for one in handles}
        queued = _by_name(self._queue(), wanted)
        seen = {name: observation(chosen(rows)) for name, rows in queued.items()}
        self._end_doubles(queued)
        missing = [one for name, one in wanted.items() if name not in queued]
        changes = {**(self._past(missing) if missing else {}), **{k: v for k, v in seen.items() if v}}
        return {name: self._with_import_log(wanted[name], one) for name, one in changes.items()}

    def _past(self, handles: list[Handle]) -> dict[str, Observation]:
        """What accounting says of jobs that the queue does not have any more."""
        rows = self._history(["--jobs", ",".join(one.external_id for one in handles)])
        unknown = UNANSWERED if rows is None else GONE
        found = _by_name(rows or [], {one.name: one for one in handles})
        unread = {name for name, rows in found.items() if not rows[-1].is_readable}
        past = {name: _last(rows) for name, rows in found.items()}
        over = {
            name: seen
            for name, seen in past.items()
            if seen and seen.phase in (Phase.ENDED, Phase.INTERRUPTED)
        }
        return {one.name: over.get(one.name, unknown) for one in handles if one.name not in unread}

    def _end_doubles(self, queued: dict[str, list[Row]]) -> None:
        """Of a submission that went through twice one runs; the other has no business in the queue."""
        for name, rows in queued.items():
            kept = chosen(rows)
            for row in rows:
                if kept.is_readable and row is not kept and row.state == "PENDING":
                    self._cancel(name, row.job_id)

    def _queue(self) -> list[Row]:
        answer = self._asked(QUEUE)
        return queue_rows(answer.out)

    def _history(self, which: list[str]) -> list[Row] | None:
        """Rows of the accounting, oldest first; none where there is no accounting, None where it is down."""
        try:
            answer = self.transport.run([*HISTORY, *which], timeout=QUERY_SECONDS)
        except BackendUnavailable as error:  # it hangs, which is nothing against the queue's answer
            log.warning("slurm.no_accounting", cluster=self.profile.name, error=error.message)
            return None
        if answer.code != 0:
            return [] if ACCOUNTING_DISABLED in answer.err else None
        return history_rows(answer.out)

    def cancel(self, handle: Handle) -> None:
        # By name alone: the id may be another job's by now, and a doubled submission has two.
        self._cancel(handle.name)

    def _cancel(self, name: str, *ids: str) -> None:
        self._asked([*ENVIRONMENT, "scancel", f"--name={name}", *ids], but=UNKNOWN_JOB)

    def _asked(self, command: Iterable[str], but: str | None = None) -> Answer:
        """The answer to a command. Raises BackendUnavailable where it failed, unless with these words."""
        answer = self.transport.run(list(command), timeout=QUERY_SECONDS)
        if answer.code != 0 and (but is None or but not in answer.err):
            said = " ".join(answer.err.split())[-300:]
            raise BackendUnavailable(f"Slurm on {self.transport.description} does not answer: {said}")
        return answer


def _refused(answer: Answer) -> BackendUnavailable | SubmissionRejected:
    if answer.code in (CLAIMED, 124):
        said = answer.err.strip()[-300:] or "no answer in time"
        return BackendUnavailable(f"It is not known whether Slurm has the job; it is asked again: {said}")
    return refusal(answer.code, answer.err)


def _last(rows: list[Row]) -> Observation | None:
    """What the last row of a job says: accounting has another one for each time that it was begun."""
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
