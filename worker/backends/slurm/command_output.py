"""What Slurm's commands are asked and answer: arguments, columns, error texts. Pure."""

import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from worker.errors import BackendUnavailable, SubmissionRejected

# Seconds since 1970: what squeue and sacct print depends on no time zone then.
ENVIRONMENT = ("env", "LC_ALL=C", "SLURM_TIME_FORMAT=%s")

# Columns of squeue --Format by their widths in bytes: names and ids of ours are shorter, and no separator
# could occur in the text. The name comes last: other jobs of the user may have one that is not ASCII.
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
# What scancel says, with an exit code, of a job that the controller has purged.
UNKNOWN_JOB = "Invalid job id specified"


UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Row:
    """One job, as the scheduler or its accounting shows it."""

    job_id: str
    name: str
    state: str
    """Without what may follow it (`CANCELLED by 0`)."""
    exit_code: int
    """Of the batch script; 128 and the signal's number where a signal ended it."""
    reason: str
    restarts: int = 0
    start: datetime | None = None
    raw: str = ""

    @property
    def is_readable(self) -> bool:
        """Whether its columns are what they should be. If not, only its id and name count."""
        return self.state != UNREADABLE


def queue_rows(text: str) -> list[Row]:
    """The answer to QUEUE. What follows a line break in the name of another job is no row."""
    lines = (line for line in text.split("\n") if line.partition(" ")[0].isdecimal())
    return [_queue_row(line) for line in lines if line[NAME_BEGIN:].strip()]


def history_rows(text: str) -> list[Row]:
    """The answer to HISTORY, as above."""
    lines = (line for line in text.split("\n") if line.partition(SEPARATOR)[0].isdecimal())
    return [_history_row(line) for line in lines if line.count(SEPARATOR) == HISTORY_SEPARATORS]


def _queue_row(line: str) -> Row:
    fields, begin = {}, 0
    for name, width in WIDTHS.items():
        fields[name] = line[begin : begin + width].strip()
        begin += width
    row = _unread(fields["JobID"], fields["Name"], " ".join(line.split()))
    with suppress(ValueError, OverflowError):
        return replace(
            row,
            state=fields["State"],
            exit_code=_of_wait_status(int(fields["exit_code"] or 0)),
            reason=fields["Reason"],
            restarts=int(fields["RestartCnt"] or 0),
            start=_moment(fields["StartTime"]),
        )
    return row


def _history_row(line: str) -> Row:
    job_id, name, state, exit_code, reason, start = line.split(SEPARATOR)
    code, _, signal_number = exit_code.partition(":")
    row = _unread(job_id, name, line.replace(SEPARATOR, " "))
    with suppress(ValueError, OverflowError):
        by_signal = 128 + int(signal_number) if int(signal_number or 0) else 0
        return replace(
            row,
            state=state.partition(" ")[0],
            exit_code=int(code) or by_signal,
            reason=reason,
            start=_moment(start),
        )
    return row


def _unread(job_id: str, name: str, raw: str) -> Row:
    return Row(job_id, name, UNREADABLE, exit_code=0, reason="", raw=raw)


def _of_wait_status(status: int) -> int:
    return status >> 8 or (128 + (status & 0x7F) if status & 0x7F else 0)


def _moment(text: str) -> datetime | None:
    return datetime.fromtimestamp(int(text), UTC) if text.isdigit() else None


# -- why a submission failed -----------------------------------------------------------------------

# The controller did not say no: it may have taken the job, or will the next time.
UNCLEAR = (
    "Unable to contact slurm controller", "Socket timed out", "Connection refused", "Connection reset",
    "connect failure", "Zero Bytes were transmitted", "Transport endpoint", "Communication connection",
    "temporarily unable to accept job", "Slurm backup controller in standby", "Unexpected message received",
    "Munge decode failed", "Failed to connect to socket", "Protocol authentication error", "authentication",
    "Slurm controller", "Slurmctld", "Resource temporarily unavailable", "Job submission rate limit",
    "configuration file", "configuration source",
    "Required partition not available", "error writing script/environment",
)  # fmt: skip

# sbatch is not there, or cannot be run.
NOT_RUN = (126, 127)
# A signal has ended sbatch, and nobody knows what it had done by then. (255 is its own, for a wrong option.)
SIGNALLED = range(128 + 1, 128 + signal.NSIG)

# A part of what Slurm says -> what to do.
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


def refusal(code: int, text: str) -> BackendUnavailable | SubmissionRejected:
    """What a failed sbatch means, in the scheduler's own words."""
    words = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in text.splitlines()]
    said = "; ".join(dict.fromkeys(word for word in words if word)) or f"sbatch exited with {code}"
    is_unclear = any(part.lower() in said.lower() for part in UNCLEAR)
    if code in NOT_RUN or code in SIGNALLED or is_unclear:
        return BackendUnavailable(f"Slurm has not taken the job yet: {said}")
    hint = next((hint for part, hint in HINTS.items() if part in said.lower()), None)
    return SubmissionRejected(f"Slurm refused the job: {said}", hint=hint)
