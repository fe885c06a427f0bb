"""What Slurm's states and reasons mean here. Sources: squeue(1), "JOB STATE CODES" and "JOB REASON CODES".

Every state of Slurm 22.05 to 25.05 is in the table; one that is not is no news.
"""

from typing import NamedTuple

from worker.runs.observation import ObservationCode as Code
from worker.runs.observation import Phase


class Meaning(NamedTuple):
    phase: Phase
    code: Code
    message: str


STATES = {
    # waits
    "PENDING": Meaning(Phase.QUEUED, Code.PENDING, "Waits in the queue."),
    "CONFIGURING": Meaning(Phase.QUEUED, Code.CONFIGURING, "Has its nodes, which are being made ready."),
    "REQUEUED": Meaning(
        Phase.INTERRUPTED, Code.PREEMPTED, "The scheduler ended it to put it into its queue again."
    ),
    "REQUEUE_FED": Meaning(Phase.QUEUED, Code.PENDING, "Is put into the queue of another cluster."),
    "REQUEUE_HOLD": Meaning(Phase.QUEUED, Code.HELD, "Was put into the queue again, and is held there."),
    "SPECIAL_EXIT": Meaning(Phase.QUEUED, Code.HELD, "Was put into the queue again, and is held there."),
    "RESV_DEL_HOLD": Meaning(Phase.QUEUED, Code.HELD, "Is held: its reservation was deleted."),
    # runs
    "RUNNING": Meaning(Phase.RUNNING, Code.RUNNING, "Runs."),
    "SIGNALING": Meaning(Phase.RUNNING, Code.RUNNING, "Is being signalled."),
    "STAGE_OUT": Meaning(Phase.RUNNING, Code.RUNNING, "Is staging its files out."),
    "SUSPENDED": Meaning(Phase.RUNNING, Code.SUSPENDED, "Is suspended by the scheduler."),
    "STOPPED": Meaning(Phase.RUNNING, Code.SUSPENDED, "Is stopped, and keeps its nodes."),
    "RESIZING": Meaning(Phase.RUNNING, Code.RUNNING, "Is being resized."),
    # was cut off, and may be begun again
    "PREEMPTED": Meaning(
        Phase.INTERRUPTED, Code.PREEMPTED, "Ended by the scheduler, for a job that goes first."
    ),
    "NODE_FAIL": Meaning(Phase.INTERRUPTED, Code.NODE_FAIL, "One of its nodes failed."),
    "BOOT_FAIL": Meaning(Phase.INTERRUPTED, Code.NODE_FAIL, "One of its nodes did not boot."),
    "LAUNCH_FAILED": Meaning(
        Phase.INTERRUPTED, Code.NODE_FAIL, "It could not be started on one of its nodes."
    ),
    "RECONFIG_FAIL": Meaning(Phase.INTERRUPTED, Code.NODE_FAIL, "One of its nodes could not be configured."),
    # is over
    "COMPLETED": Meaning(Phase.ENDED, Code.EXITED, "The launcher exited with 0."),
    "FAILED": Meaning(Phase.ENDED, Code.EXITED, "The launcher failed."),
    "TIMEOUT": Meaning(Phase.ENDED, Code.TIME_LIMIT, "Reached its time limit."),
    "DEADLINE": Meaning(Phase.ENDED, Code.TIME_LIMIT, "Reached its deadline."),
    "CANCELLED": Meaning(Phase.ENDED, Code.CANCELLED, "Cancelled on the cluster."),
    "OUT_OF_MEMORY": Meaning(
        Phase.ENDED, Code.OOM_KILLED, "The host's memory that it may use was exhausted."
    ),
}
# COMPLETING: over, or about to be begun again, which the next look tells. REVOKED: another cluster has it.

# A reason -> words; those of NEVER do not go away by waiting.
WAITS = {
    "None": "Waits for the scheduler's next round.",
    "Priority": "Other jobs go first.",
    "Resources": "Waits for nodes to become free.",
    "Dependency": "Waits for its container image to be imported.",
    "BeginTime": "Begins again shortly: a requeued job is held for a while.",
    "Cleaning": "Its last run is still being cleaned up.",
    "Prolog": "The nodes are being made ready.",
    "Nodes required for job are DOWN": "The nodes that it needs are down, drained or reserved.",
    "NodeDown": "A node that it needs is down.",
    "ReqNodeNotAvail": "The nodes that it asks for are not available now: reserved, drained or down.",
    "Licenses": "Waits for licenses.",
    "Reservation": "Waits for its reservation to begin.",
    "JobHeldUser": "Held by a user of the cluster: `scontrol release` lets it go.",
    "JobHeldAdmin": "Held by an administrator of the cluster.",
    "launch failed requeued held": "Its start failed, and it is held: the nodes want an administrator.",
    "PartitionDown": "The partition starts no jobs now.",
    "PartitionInactive": "The partition is inactive.",
    "MaxJobsPerAccount": "The account has as many running jobs as it may.",
    "FairShare": "Waits for the account's fair share.",
    "AssocMaxJobsLimit": "The association has as many running jobs as it may.",
    "QOSMaxJobsPerUserLimit": "The QOS lets the user have no more running jobs.",
    "QOSMaxGRESPerUser": "The QOS lets the user have no more GPUs at a time.",
    "QOSGrpGRES": "The QOS's GPUs are in use.",
    "AssocGrpGRES": "The account's GPUs are in use.",
}
NEVER = {
    "DependencyNeverSatisfied": "The import of its container image failed.",
    "PartitionNodeLimit": "It asks for more nodes than the partition gives.",
    "PartitionTimeLimit": "It asks for more time than the partition gives.",
    "PartitionConfig": "It asks for what the partition does not have.",
    "BadConstraints": "No node can satisfy its constraints.",
    "InvalidAccount": "Its account is not valid.",
    "InvalidQOS": "Its QOS is not valid.",
    "AccountNotAllowed": "Its account may not use the partition.",
    "QOSNotAllowed": "Its QOS may not be used here.",
    "QOSResourceLimit": "It asks for more than its QOS ever gives.",
    "QOSTimeLimit": "It asks for more time than its QOS gives.",
    "AssociationResourceLimit": "It asks for more than its account ever gets.",
    "AssociationTimeLimit": "It asks for more time than its account gets.",
    "JobArrayTaskLimit": "The array's limit keeps it.",
    "MaxMemPerLimit": "It asks for more memory than a node may give.",
}
NEVER_SUFFIXES = ("PerJobLimit", "PerJob", "MinutesPerJobLimit", "WallDurationPerJobLimit")


def waiting(reason: str) -> Meaning:
    """Why a job is pending, in words, and whether waiting can help."""
    if words := _never(reason):
        return Meaning(Phase.QUEUED, Code.NEVER_RUNS, f"Can never run like this: {words} (Slurm: {reason})")
    words = next((words for name, words in WAITS.items() if reason.startswith(name)), "Waits in the queue.")
    code = Code.HELD if "held" in reason.lower() else Code.PENDING
    told = "" if reason in ("None", "") else f" (Slurm: {reason})"
    return Meaning(Phase.QUEUED, code, words + told)


def _never(reason: str) -> str | None:
    if reason in NEVER:
        return NEVER[reason]
    if reason.endswith(NEVER_SUFFIXES):
        return "It asks for more than one job may have."
    return None
