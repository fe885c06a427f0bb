"""Arguments, output columns and error texts of Slurm's commands. Pure."""

import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from worker.errors import BackendUnavailable, SubmissionRejected

# Times in seconds since 1970, so that the output of squeue and sacct depends on no time zone.
ENVIRONMENT = ("env", "LC_ALL=C", "SLURM_TIME_FORMAT=%s")

# Columns of squeue --Format by their widths in bytes. Our names and ids are shorter, so columns cannot run
# into each other. The name comes last: other jobs of the user may have names that are not ASCII.
WIDTHS = {
    "JobID": 20,
    "State": 20,
    "RestartCnt": 10,
    "StartTime": 24,
    "exit_code": 12,
    "Reason": 60,
    "Name": 100,
}
NAME_BEGIN = sum(WIDTHS.values()) - WIDTHS["Name"]
QUEUE = (
    *ENVIRONMENT, "squeue", "--me", "--noheader", "--states=all",
    "--Format", ",".join(f"{name}:{width}" for name, width in WIDTHS.items()),
)  # fmt: skip

SEPARATOR = "\x1f"
HISTORY = (
    *ENVIRONMENT, "sacct", "--noheader", "--parsable2", f"--delimiter={SEPARATOR}",
    "--allocations", "--duplicates", "--format", "JobIDRaw,JobName%100,State,ExitCode,Reason,Start",
)  # fmt: skip
HISTORY_SEPARATORS = HISTORY[-1].count(",")
ACCOUNTING_DISABLED = "accounting storage is disabled"
# scancel fails with this text for a job that the controller has purged.
UNKNOWN_JOB = "Invalid job id specified"

UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Row:
    """One job, as the scheduler or its accounting lists it."""

    job_id: str
    name: str
    state: str
    """The first word of the state column (`CANCELLED by 0` -> `CANCELLED`)."""
    exit_code: int
    """Of the batch script; 128 plus the signal number if a signal ended it."""
    reason: str
    restarts: int = 0
    start: datetime | None = None
    raw: str = ""

    @property
    def is_readable(self) -> bool:
        """Whether the columns could be parsed. If not, only id and name are valid."""
        return self.state != UNREADABLE


def queue_rows(text: str) -> list[Row]:
    """Parse the output of QUEUE. Skip the rest of another job's name after a line break in it."""
    lines = (line for line in text.split("\n") if line.partition(" ")[0].isdecimal())
    return [_queue_row(line) for line in lines if line[NAME_BEGIN:].strip()]


def history_rows(text: str) -> list[Row]:
    """Parse the output of HISTORY; skip other lines as queue_rows does."""
    lines = (line for line in text.split("\n") if line.partition(SEPARATOR)[0].isdecimal())
    return [_history_row(line) for line in lines if line.count(SEPARATOR) == HISTORY_SEPARATORS]


def _queue_row(line: str) -> Row:
    fields, begin = {}, 0
    for name, width in WIDTHS.items():
        fields[name] = line[begin : begin + width].strip()
        begin += width
    row = _unreadable(fields["JobID"], fields["Name"], " ".join(line.split()))
    with suppress(ValueError, OverflowError):
        return replace(
            row,
            state=fields["State"],
            exit_code=_of_wait_status(int(fields["exit_code"] or 0)),
            reason=fields["Reason"],
            restarts=int(fields["RestartCnt"] or 0),
            start=_time(fields["StartTime"]),
        )
    return row


def _history_row(line: str) -> Row:
    job_id, name, state, exit_code, reason, start = line.split(SEPARATOR)
    code, _, signal_number = exit_code.partition(":")
    row = _unreadable(job_id, name, line.replace(SEPARATOR, " "))
    with suppress(ValueError, OverflowError):
        by_signal = 128 + int(signal_number) if int(signal_number or 0) else 0
        return replace(
            row,
            state=state.partition(" ")[0],
            exit_code=int(code) or by_signal,
            reason=reason,
            start=_time(start),
        )
    return row


def _unreadable(job_id: str, name: str, raw: str) -> Row:
    return Row(job_id, name, UNREADABLE, exit_code=0, reason="", raw=raw)


def _of_wait_status(status: int) -> int:
    return status >> 8 or (128 + (status & 0x7F) if status & 0x7F else 0)


def _time(text: str) -> datetime | None:
    return datetime.fromtimestamp(int(text), UTC) if text.isdigit() else None


# -- why a submission failed -----------------------------------------------------------------------

# The controller did not reject the job: it may have accepted it, or may accept it at the next try.
UNCLEAR = (
    "Unable to contact slurm controller", "Socket timed out", "Connection refused", "Connection reset",
    "connect failure", "Zero Bytes were transmitted", "Transport endpoint", "Communication connection",
    "temporarily unable to accept job", "Slurm backup controller in standby", "Unexpected message received",
    "Munge decode failed", "Failed to connect to socket", "Protocol authentication error", "authentication",
    "Slurm controller", "Slurmctld", "Resource temporarily unavailable", "Job submission rate limit",
    "configuration file", "configuration source",
    "Required partition not available", "error writing script/environment",
)  # fmt: skip

# sbatch is missing, or cannot be executed.
NOT_RUN = (126, 127)
# A signal ended sbatch, perhaps after the submission. (255 is sbatch's own code, for a wrong option.)
SIGNALLED = range(128 + 1, 128 + signal.NSIG)

# Part of Slurm's message -> what to do.
HINTS = {
    "invalid partition": "Correct partition, run_partition and batch_partition of the cluster's profile.",
    "invalid account": "Correct `account` of the cluster's profile: `sacctmgr show associations`.",
    "invalid qos": "Correct `qos` of the cluster's profile: `sacctmgr show qos`.",
    "requested node configuration is not available": "Ask for fewer GPUs or CPUs: `sinfo -N -l`.",
    "node count specification invalid": "Ask for fewer nodes.",
    "more processors requested than permitted": "Ask for fewer nodes or CPUs.",
    "requested time limit is invalid": "Ask for less time: `sinfo -o '%P %l'` shows the partitions' limits.",
    "invalid feature": "Correct `constraint` of the cluster's profile.",
    "requested reservation is invalid": "Correct `reservation` of the cluster's profile.",
    "violates accounting": "Ask for less, or wait until other jobs of the account have ended.",
    "pathname of a file": "Shorten `comment` or `setup_lines` of the cluster's profile.",
    "invalid --": "Correct the field of this name in the cluster's profile.",
    "access/permission denied": "The account may not use this partition, QOS or reservation.",
}


def submission_error(code: int, text: str) -> BackendUnavailable | SubmissionRejected:
    """Return the error of a failed sbatch, with Slurm's own message."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in text.splitlines()]
    message = "; ".join(dict.fromkeys(line for line in lines if line)) or f"sbatch exited with {code}"
    is_unclear = any(part.lower() in message.lower() for part in UNCLEAR)
    if code in NOT_RUN or code in SIGNALLED or is_unclear:
        return BackendUnavailable(f"Slurm has not accepted the job yet: {message}")
    hint = next((hint for part, hint in HINTS.items() if part in message.lower()), None)
    return SubmissionRejected(f"Slurm rejected the job: {message}", hint=hint)
