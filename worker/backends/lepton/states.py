"""The meaning of Lepton's states. A state that is not in the table means no change.

Source: LeptonJobState of the public SDK leptonai 0.47.1.
"""

from worker.runs.observation import Meaning, Phase
from worker.runs.observation import ObservationCode as Code

STATES = {
    # queued; if the run had started before, it was interrupted
    "Queueing": Meaning(Phase.QUEUED, Code.PENDING, "Waits in the workspace's queue."),
    "Awaiting": Meaning(Phase.QUEUED, Code.PENDING, "Waits for its nodes."),
    "PendingRetry": Meaning(Phase.QUEUED, Code.PENDING, "Waits for its next try."),
    "Restarting": Meaning(Phase.QUEUED, Code.PENDING, "Is about to be started."),
    "Starting": Meaning(Phase.QUEUED, Code.STARTING, "Its containers are being started."),
    # running
    "Running": Meaning(Phase.RUNNING, Code.RUNNING, "Runs."),
    "Stopping": Meaning(Phase.RUNNING, Code.STOPPING, "Is being stopped."),
    "Terminating": Meaning(Phase.RUNNING, Code.STOPPING, "Is being stopped."),
    "Deleting": Meaning(Phase.RUNNING, Code.STOPPING, "Its record is being deleted."),
    # ended
    "Completed": Meaning(Phase.ENDED, Code.EXITED, "All replicas exited with 0."),
    "Failed": Meaning(Phase.ENDED, Code.EXITED, "A replica failed."),
    "Stopped": Meaning(Phase.ENDED, Code.CANCELLED, "Stopped on Lepton."),
    "Deleted": Meaning(Phase.ENDED, Code.CANCELLED, "Its record was deleted on Lepton."),
}
# If the run had started before, Lepton has requeued it and would restart it.
REQUEUED_STATES = frozenset({"Queueing", "Awaiting", "PendingRetry", "Restarting"})
# Ended; Lepton no longer knows how.
ARCHIVED = "Archived"

# Prefix of the reason of a job's event (a Kubernetes reason) -> code and message of the run's end.
END_REASONS = {
    "ErrImage": (Code.IMAGE_PULL, "Its container image could not be pulled."),
    "ImagePull": (Code.IMAGE_PULL, "Its container image could not be pulled."),
    "InvalidImage": (Code.IMAGE_PULL, "The name of its container image is not valid."),
    "Preempt": (Code.PREEMPTED, "Preempted by another job."),
    "Evict": (Code.PREEMPTED, "Evicted from its node."),
    "NodeNotReady": (Code.NODE_FAIL, "One of its nodes failed."),
    "NodeLost": (Code.NODE_FAIL, "One of its nodes failed."),
    "OOMKill": (Code.OOM_KILLED, "The run's limit of host memory was exceeded."),
}
