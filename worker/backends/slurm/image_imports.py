"""Imports of container images: the Slurm jobs that make squash files, and the runs that wait for them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.run_layout import RunLayout
from worker.backends.access.transport import Transport
from worker.backends.interface import Handle, Submission
from worker.backends.slurm.command_output import Row, submission_error
from worker.backends.slurm.images import Image, log_of_import, resolved
from worker.backends.slurm.job_id_file import read_job_id
from worker.backends.slurm.paths import Paths
from worker.backends.slurm.rendering import render_import
from worker.backends.slurm.timeouts import QUERY_SECONDS, SUBMIT_SECONDS
from worker.clusters.profiles import SlurmCluster
from worker.errors import BackendUnavailable
from worker.runs.observation import Observation, ObservationCode


@dataclass(frozen=True)
class ImageImports:
    """The image imports of one cluster."""

    profile: SlurmCluster
    paths: Paths
    transport: Transport
    queue: Callable[[], list[Row]]
    """Reads the queue of the service's user."""

    def options(self, submission: Submission, layout: RunLayout) -> list[str]:
        """Return the sbatch options that make a run wait for its image; import the image if necessary."""
        if submission.image is None:
            return []
        image = resolved(Image.of(submission.image, self.paths), self.transport)
        self.transport.files().write(layout.image, f"{image.file}\n".encode())
        if image.is_file or (not submission.fresh_image and image.file in self._imported()):
            return []
        job_id = self._fresh_import(image, layout) if submission.fresh_image else self._shared_import(image)
        return [f"--dependency=afterok:{job_id}", "--kill-on-invalid-dep=yes"]

    def _fresh_import(self, image: Image, layout: RunLayout) -> str:
        """Return the job id of this attempt's own import: a single one, however often it is submitted."""
        files = self.transport.files()
        if known := read_job_id(layout.image_import, files):
            return known
        job_id = self._submit(image, fresh=True)
        files.write(layout.image_import, f"{job_id}\n".encode())
        return job_id

    def _imported(self) -> list[Path]:
        """Return the links of the imported images, without dangling ones."""
        command = ["find", "-L", str(self.paths.images), "-maxdepth", "1", "-name", "*.sqsh", "-type", "f"]
        answer = self.transport.run(command, timeout=QUERY_SECONDS)
        return [Path(line) for line in answer.out.splitlines()]

    def _shared_import(self, image: Image) -> str:
        """Return the job id of the image's import: one that is in the queue already, or a new one."""
        queued = [
            row for row in self.queue() if row.name == image.job_name and row.state in ("PENDING", "RUNNING")
        ]
        return queued[0].job_id if queued else self._submit(image, fresh=False)

    def _submit(self, image: Image, *, fresh: bool) -> str:
        self.transport.files().make_directory(self.paths.images)
        script = render_import(image, self.profile, self.paths, fresh=fresh)
        answer = self.transport.run(["sbatch", "--parsable"], stdin=script, timeout=SUBMIT_SECONDS)
        if answer.code != 0:
            raise submission_error(answer.code, answer.err)
        return answer.out.strip().partition(";")[0]

    def with_log(self, handle: Handle, seen: Observation) -> Observation:
        """Return the observation; if it is a failed import, with the end of the import's log."""
        if seen.code is not ObservationCode.IMAGE_PULL:
            return seen
        with suppress(FileNotFoundError, BackendUnavailable):
            files = self.transport.files()
            image = files.read(handle.submitted.image, 0, 4096, handle.layout.job.jobs).decode().strip()
            log = log_of_import(Path(image))
            with files.open(log, self.paths.images) as file:
                text = file.read(max(0, file.stat().size - 1000), 1000).decode(errors="replace")
            return replace(seen, message=f"{seen.message} {log} ends with: {' '.join(text.split())[-300:]}")
        return seen
