"""The meaning of Slurm's states and reasons. Sources: squeue(1), "JOB STATE CODES" and "JOB REASON CODES".

The table has every state of Slurm 22.05 to 25.05. A state that is not in the table means no change.
"""

from worker.runs.observation import Meaning, Phase
from worker.runs.observation import ObservationCode as Code

STATES = {
    # queued
    "PENDING": Meaning(Phase.QUEUED, Code.PENDING, "Waits in the queue."),
    "CONFIGURING": Meaning(Phase.QUEUED, Code.CONFIGURING, "Its nodes are being prepared."),
    "REQUEUED": Meaning(Phase.INTERRUPTED, Code.PREEMPTED, "The scheduler ended and requeued the job."),
    "REQUEUE_FED": Meaning(Phase.QUEUED, Code.PENDING, "Is being requeued on another cluster."),
    "REQUEUE_HOLD": Meaning(Phase.QUEUED, Code.HELD, "Was requeued and is held."),
    "SPECIAL_EXIT": Meaning(Phase.QUEUED, Code.HELD, "Was requeued and is held."),
    "RESV_DEL_HOLD": Meaning(Phase.QUEUED, Code.HELD, "Is held: its reservation was deleted."),
    # running
    "RUNNING": Meaning(Phase.RUNNING, Code.RUNNING, "Runs."),
    "SIGNALING": Meaning(Phase.RUNNING, Code.RUNNING, "Is being signaled."),
    "STAGE_OUT": Meaning(Phase.RUNNING, Code.RUNNING, "Is staging out its files."),
    "SUSPENDED": Meaning(Phase.RUNNING, Code.SUSPENDED, "Is suspended by the scheduler."),
    "STOPPED": Meaning(Phase.RUNNING, Code.SUSPENDED, "Is stopped and keeps its nodes."),
    "RESIZING": Meaning(Phase.RUNNING, Code.RUNNING, "Is being resized."),
    # interrupted; Slurm may requeue the job
    "PREEMPTED": Meaning(Phase.INTERRUPTED, Code.PREEMPTED, "Preempted by a job of higher priority."),
    "NODE_FAIL": Meaning(Phase.INTERRUPTED, Code.NODE_FAIL, "One of its nodes failed."),
    "BOOT_FAIL": Meaning(Phase.INTERRUPTED, Code.NODE_FAIL, "One of its nodes did not boot."),
    "LAUNCH_FAILED": Meaning(
        Phase.INTERRUPTED, Code.NODE_FAIL, "The job could not be started on one of its nodes."
    ),
    "RECONFIG_FAIL": Meaning(Phase.INTERRUPTED, Code.NODE_FAIL, "One of its nodes could not be configured."),
    # ended
    "COMPLETED": Meaning(Phase.ENDED, Code.EXITED, "The launcher exited with 0."),
    "FAILED": Meaning(Phase.ENDED, Code.EXITED, "The launcher failed."),
    "TIMEOUT": Meaning(Phase.ENDED, Code.TIME_LIMIT, "Reached its time limit."),
    "DEADLINE": Meaning(Phase.ENDED, Code.TIME_LIMIT, "Reached its deadline."),
    "CANCELLED": Meaning(Phase.ENDED, Code.CANCELLED, "Cancelled on the cluster."),
    "OUT_OF_MEMORY": Meaning(Phase.ENDED, Code.OOM_KILLED, "The job's limit of host memory was exceeded."),
}
# Not in the table: COMPLETING (ended or about to be requeued; the next poll tells) and REVOKED (the job is on
# another cluster).

# Reasons that may resolve by waiting -> message.
TEMPORARY_REASONS = {
    "None": "Waits for the scheduler's next cycle.",
    "Priority": "Waits for jobs of higher priority.",
    "Resources": "Waits for nodes to become free.",
    "Dependency": "Waits for its container image to be imported.",
    "BeginTime": "Waits for its restart: Slurm delays requeued jobs briefly.",
    "Cleaning": "Its last run is still being cleaned up.",
    "Prolog": "The nodes are being prepared.",
    "Nodes required for job are DOWN": "The nodes that it needs are down, drained or reserved.",
    "NodeDown": "A node that it needs is down.",
    "ReqNodeNotAvail": "The requested nodes are not available now: reserved, drained or down.",
    "Licenses": "Waits for licenses.",
    "Reservation": "Waits for its reservation to begin.",
    "JobHeldUser": "Held by a user of the cluster. Release it with `scontrol release`.",
    "JobHeldAdmin": "Held by an administrator of the cluster.",
    "launch failed requeued held": "Its start failed and it is held: an administrator must check the nodes.",
    "PartitionDown": "The partition starts no jobs now.",
    "PartitionInactive": "The partition is inactive.",
    "MaxJobsPerAccount": "The account has reached its limit of running jobs.",
    "FairShare": "Waits for the account's fair share.",
    "AssocMaxJobsLimit": "The association has reached its limit of running jobs.",
    "QOSMaxJobsPerUserLimit": "The user has reached the QOS's limit of running jobs.",
    "QOSMaxGRESPerUser": "The user has reached the QOS's limit of GPUs.",
    "QOSGrpGRES": "The QOS's GPUs are in use.",
    "AssocGrpGRES": "The account's GPUs are in use.",
}
# Reasons that waiting does not resolve -> message.
PERMANENT_REASONS = {
    "DependencyNeverSatisfied": "The import of the container image failed.",
    "PartitionNodeLimit": "It requests more nodes than the partition allows.",
    "PartitionTimeLimit": "It requests more time than the partition allows.",
    "PartitionConfig": "It requests resources that the partition does not have.",
    "BadConstraints": "No node can satisfy its constraints.",
    "InvalidAccount": "Its account is not valid.",
    "InvalidQOS": "Its QOS is not valid.",
    "AccountNotAllowed": "Its account may not use the partition.",
    "QOSNotAllowed": "Its QOS is not allowed here.",
    "QOSResourceLimit": "It requests more resources than its QOS allows.",
    "QOSTimeLimit": "It requests more time than its QOS allows.",
    "AssociationResourceLimit": "It requests more resources than its account allows.",
    "AssociationTimeLimit": "It requests more time than its account allows.",
    "JobArrayTaskLimit": "The limit of its job array is reached.",
    "MaxMemPerLimit": "It requests more memory than a node may give.",
}
PERMANENT_SUFFIXES = ("PerJobLimit", "PerJob", "MinutesPerJobLimit", "WallDurationPerJobLimit")


def pending_reason(reason: str) -> Meaning:
    """Return the meaning of a pending job's reason, and whether waiting can resolve it."""
    if message := _permanent_reason(reason):
        message = f"Can never run as submitted: {message} (Slurm: {reason})"
        return Meaning(Phase.QUEUED, Code.NEVER_RUNS, message)
    known = (message for name, message in TEMPORARY_REASONS.items() if reason.startswith(name))
    message = next(known, "Waits in the queue.")
    code = Code.HELD if "held" in reason.lower() else Code.PENDING
    source = "" if reason in ("None", "") else f" (Slurm: {reason})"
    return Meaning(Phase.QUEUED, code, message + source)


def _permanent_reason(reason: str) -> str | None:
    if reason in PERMANENT_REASONS:
        return PERMANENT_REASONS[reason]
    if reason.endswith(PERMANENT_SUFFIXES):
        return "It requests more than the limit for one job."
    return None
