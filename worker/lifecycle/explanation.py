"""Why a run failed: the likeliest explanation by its end marker, its logs and the observed exit. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from trainer.events import Ending, Failed, Finished, Stopped
from trainer.failures import FAILURES, Evidence, LogMatch, LogTail, Precedence, clean, failure_name, match_log
from trainer.run_layout import STOP_PREEMPTION, STOP_TERMINATED, STOP_TIME_LIMIT
from worker.runs.observation import ExitRecord, ObservationCode

# The failure (a name of FAILURES) that an observed exit means.
FAILURE_OF_EXIT = {
    ObservationCode.PREEMPTED: "preempted",
    ObservationCode.NODE_FAIL: "node_fail",
    ObservationCode.KILLED: "node_fail",
    ObservationCode.TIME_LIMIT: "time_limit",
    ObservationCode.IMAGE_PULL: "image_pull",
    ObservationCode.OOM_KILLED: "host_oom",
    ObservationCode.START_FAILED: "scheduler_rejected",
}
# The failure that a stop file meant, where no client had requested the stop.
FAILURE_OF_STOP = {STOP_TIME_LIMIT: "time_limit", STOP_PREEMPTION: "preempted"}


@dataclass(frozen=True)
class Explanation:
    """Why a run failed: a name of FAILURES, its cause, and the evidence."""

    name: str
    cause: str | None = None
    """None: the cause of FAILURES."""
    match: LogMatch | None = None
    rank: int | None = None
    line: str | None = None
    traceback: str | None = None

    def evidence(self, attempt: int, last_lines: list[str]) -> Evidence:
        """last_lines: shown where no line is decisive."""
        rank = self.match.rank if self.match else self.rank
        place = {"offset": self.match.offset, "limit": self.match.limit} if self.match else {}
        line = self.match.line if self.match else self.line
        return Evidence(
            attempt=attempt, rank=rank, line=line, traceback=self.traceback,
            last_lines=[] if line else last_lines, **place,
        )  # fmt: skip


# -- the logs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogFindings:
    """What the logs of a run show."""

    best: LogMatch | None
    """The match that explains most; of equal ones the first, in the log of the rank that failed first."""
    of_marker: LogMatch | None
    """Where the message of the end marker stands."""
    last_lines: list[str]
    """The end of the first rank's log, or of the launcher's."""


def read_logs(logs: Iterable[LogTail], marker: Ending | None) -> LogFindings:
    """Search the logs of all ranks for patterns of failures, one log in memory at a time."""
    first = marker.rank if isinstance(marker, Failed) else None
    found: list[LogMatch] = []
    last_lines: list[str] = []
    of_marker = None
    for log in logs:
        here = match_log(log)
        found += here
        last_lines = last_lines or log.last_lines()
        if isinstance(marker, Failed) and log.rank == first:
            of_marker = _match_of(marker, log, here)
    best = min(found, key=lambda match: _order(match, first), default=None)
    return LogFindings(best, of_marker, last_lines)


def _order(match: LogMatch, first: int | None) -> tuple[int, bool, bool, int, int]:
    """A cause before its consequences; ranks before the launcher, whose log repeats theirs."""
    return match.precedence, match.rank is None, match.rank != first, match.rank or 0, match.offset


def _match_of(marker: Failed, log: LogTail, here: list[LogMatch]) -> LogMatch | None:
    """Where the failure of the end marker stands in the log of its rank."""
    same = next((match for match in here if match.name == marker.code), None)
    place = log.find(next(iter(marker.message.splitlines()), "").rstrip(": "))
    if same or place is None:
        return same
    begin, end = place
    return LogMatch(_name(marker), log.rank, log.offset + begin, end - begin, log.line(begin, end))


# -- the explanation -------------------------------------------------------------------------------


def likeliest(marker: Ending | None, ended: ExitRecord, found: LogFindings) -> Explanation:
    """Return the likeliest of all explanations."""
    if isinstance(marker, Finished):
        cause = "The run finished, but its final checkpoint is missing or incomplete."
        return Explanation("bad_checkpoint", cause)
    if isinstance(marker, Stopped) and (stopped := _of_stop(marker, ended, found)):
        return stopped
    # Of equal weights min takes the first: the trainer's own message.
    candidates = list(_candidates(marker, ended, found))
    silent = f"The run ended without an end marker of the trainer. {ended.message}".strip()
    weakest = (Precedence.PEER_LOST, Explanation("unknown", silent))
    return min(candidates, key=lambda one: one[0], default=weakest)[1]


def _of_stop(marker: Stopped, ended: ExitRecord, found: LogFindings) -> Explanation | None:
    if marker.reason in FAILURE_OF_STOP:
        return Explanation(FAILURE_OF_STOP[marker.reason])
    if marker.reason == STOP_TERMINATED and found.best and found.best.name == "preempted":
        return _of_match(found.best)
    if ended.code not in FAILURES:
        return Explanation("unknown", f"The run was stopped at step {marker.step} by its stop file.")
    return None


def _candidates(
    marker: Ending | None, ended: ExitRecord, found: LogFindings
) -> Iterable[tuple[Precedence, Explanation]]:
    if isinstance(marker, Failed):
        own = _of_marker(marker, found)
        yield FAILURES[own.name].precedence, own
    if found.best and not isinstance(marker, Stopped):
        yield found.best.precedence, _of_match(found.best)
    if failure := FAILURE_OF_EXIT.get(ended.code):
        yield Precedence.CLUSTER_REPORT, Explanation(failure, ended.message or None)


def _of_marker(marker: Failed, found: LogFindings) -> Explanation:
    """The trainer's message is the cause where it rejected the config, or where no rule knows the error."""
    name = _name(marker)
    is_cause = marker.traceback is None or name in ("user_code", "unknown", "invalid_config")
    return Explanation(
        name,
        marker.message if is_cause else None,
        match=found.of_marker or (found.best if found.best and found.best.name == name else None),
        rank=marker.rank,
        line=clean(next(iter(marker.message.splitlines()), "")) or None,
        traceback=marker.traceback,
    )


def _name(marker: Failed) -> str:
    """The code of a rejection may be that of a preflight check: then it is about the config."""
    if marker.traceback and marker.code not in FAILURES:
        return "user_code"
    return failure_name(marker.code)


def _of_match(match: LogMatch) -> Explanation:
    return Explanation(match.name, match.line if match.name == "user_code" else None, match=match)
