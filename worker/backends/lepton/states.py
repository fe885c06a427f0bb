"""What Lepton's states mean here; one that is not in the table is no news.

Source: LeptonJobState of the public SDK leptonai 0.47.1.
"""

from typing import NamedTuple

from worker.backends.interface import Phase


class Meaning(NamedTuple):
    phase: Phase
    code: str
    message: str


STATES = {
    # waits; where the run had begun, it was interrupted
    "Queueing": Meaning(Phase.QUEUED, "pending", "Waits in the workspace's queue."),
    "Awaiting": Meaning(Phase.QUEUED, "pending", "Waits for its nodes."),
    "PendingRetry": Meaning(Phase.QUEUED, "pending", "Waits for its next try."),
    "Restarting": Meaning(Phase.QUEUED, "pending", "Is about to be started."),
    "Starting": Meaning(Phase.QUEUED, "starting", "Its containers are being started."),
    # runs
    "Running": Meaning(Phase.RUNNING, "running", "Runs."),
    "Stopping": Meaning(Phase.RUNNING, "stopping", "Is being stopped."),
    "Terminating": Meaning(Phase.RUNNING, "stopping", "Is being stopped."),
    "Deleting": Meaning(Phase.RUNNING, "stopping", "Its record is being deleted."),
    # is over
    "Completed": Meaning(Phase.ENDED, "exited", "All replicas exited with 0."),
    "Failed": Meaning(Phase.ENDED, "exited", "A replica failed."),
    "Stopped": Meaning(Phase.ENDED, "cancelled", "Stopped on Lepton."),
    "Deleted": Meaning(Phase.ENDED, "cancelled", "Its record was deleted on Lepton."),
}
# Lepton has put it back: it would begin once more.
WAITING_AGAIN = frozenset({"Queueing", "Awaiting", "PendingRetry", "Restarting"})
# Ended, and nobody remembers how.
ARCHIVED = "Archived"

# Reasons of a job's events, which are those of Kubernetes, by what they begin with -> how the run ended.
ENDS = {
    "ErrImage": ("image_pull", "Its container image could not be pulled."),
    "ImagePull": ("image_pull", "Its container image could not be pulled."),
    "InvalidImage": ("image_pull", "The name of its container image is not valid."),
    "Preempt": ("preempted", "Preempted by another job."),
    "Evict": ("preempted", "Evicted from its node."),
    "NodeNotReady": ("node_fail", "One of its nodes failed."),
    "NodeLost": ("node_fail", "One of its nodes failed."),
    "OOMKill": ("oom_killed", "The host's memory that it may use was exhausted."),
}
