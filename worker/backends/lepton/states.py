"""What Lepton's states mean here; one that is not in the table is no news.

Source: LeptonJobState of the public SDK leptonai 0.47.1.
"""

from typing import NamedTuple

from worker.runs.observation import ObservationCode as Code
from worker.runs.observation import Phase


class Meaning(NamedTuple):
    phase: Phase
    code: Code
    message: str


STATES = {
    # waits; where the run had begun, it was interrupted
    "Queueing": Meaning(Phase.QUEUED, Code.PENDING, "Waits in the workspace's queue."),
    "Awaiting": Meaning(Phase.QUEUED, Code.PENDING, "Waits for its nodes."),
    "PendingRetry": Meaning(Phase.QUEUED, Code.PENDING, "Waits for its next try."),
    "Restarting": Meaning(Phase.QUEUED, Code.PENDING, "Is about to be started."),
    "Starting": Meaning(Phase.QUEUED, Code.STARTING, "Its containers are being started."),
    # runs
    "Running": Meaning(Phase.RUNNING, Code.RUNNING, "Runs."),
    "Stopping": Meaning(Phase.RUNNING, Code.STOPPING, "Is being stopped."),
    "Terminating": Meaning(Phase.RUNNING, Code.STOPPING, "Is being stopped."),
    "Deleting": Meaning(Phase.RUNNING, Code.STOPPING, "Its record is being deleted."),
    # is over
    "Completed": Meaning(Phase.ENDED, Code.EXITED, "All replicas exited with 0."),
    "Failed": Meaning(Phase.ENDED, Code.EXITED, "A replica failed."),
    "Stopped": Meaning(Phase.ENDED, Code.CANCELLED, "Stopped on Lepton."),
    "Deleted": Meaning(Phase.ENDED, Code.CANCELLED, "Its record was deleted on Lepton."),
}
# Lepton has put it back: it would begin once more.
WAITING_AGAIN = frozenset({"Queueing", "Awaiting", "PendingRetry", "Restarting"})
# Ended, and nobody remembers how.
ARCHIVED = "Archived"

# Reasons of a job's events, which are those of Kubernetes, by what they begin with -> how the run ended.
ENDS = {
    "ErrImage": (Code.IMAGE_PULL, "Its container image could not be pulled."),
    "ImagePull": (Code.IMAGE_PULL, "Its container image could not be pulled."),
    "InvalidImage": (Code.IMAGE_PULL, "The name of its container image is not valid."),
    "Preempt": (Code.PREEMPTED, "Preempted by another job."),
    "Evict": (Code.PREEMPTED, "Evicted from its node."),
    "NodeNotReady": (Code.NODE_FAIL, "One of its nodes failed."),
    "NodeLost": (Code.NODE_FAIL, "One of its nodes failed."),
    "OOMKill": (Code.OOM_KILLED, "The host's memory that it may use was exhausted."),
}
