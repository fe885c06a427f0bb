"""The catalog of failures: class, cause, recovery, and whether an unchanged retry can succeed.

The texts of tokenizer_mismatch, oom and missing_packed_data are from NVIDIA's reference for the step
sft/megatron_bridge.
"""

from dataclasses import dataclass
from enum import IntEnum

from pydantic import BaseModel, ConfigDict, Field

from trainer.suggestion import Suggestion


class Evidence(BaseModel):
    """Where the logs show a failure."""

    attempt: int | None = None
    rank: int | None = Field(
        default=None, description="Rank whose log it is; null for the log of the complete attempt."
    )
    offset: int | None = Field(
        default=None, description="Offset of the decisive lines in that log, in bytes."
    )
    limit: int | None = Field(
        default=None, description="Length of the decisive lines in bytes, as GET logs takes it."
    )
    line: str | None = Field(default=None, description="The decisive line, truncated if it is long.")
    last_lines: list[str] = Field(
        default=[], description="The end of the log, if no line explains the failure."
    )
    traceback: str | None = Field(default=None, description="The end of the trainer's traceback.")


class Failure(BaseModel):
    """Why a job did not succeed, for clients."""

    model_config = ConfigDict(populate_by_name=True)

    failure_class: str = Field(alias="class", description="One of the known classes, or `unknown`.")
    cause: str = Field(description="What happened, in one sentence.")
    recovery: str = Field(description="What to do about the failure.")
    retryable: bool = Field(
        description="Whether a retry of the unchanged job may succeed. A retry is allowed in any case: if "
        "this is false, change something first, in the retry or outside of it."
    )
    evidence: Evidence = Field(default_factory=Evidence)
    suggestion: Suggestion | None = Field(
        default=None, description="A change with which a retry may succeed; apply_suggestion applies it."
    )


class Precedence(IntEnum):
    """How well a piece of evidence explains a failure. The lowest value wins, whichever was logged first."""

    CAUSE = 0
    """The log states the cause."""
    ERROR = 1
    """An exception that is not in the catalog."""
    CLUSTER_REPORT = 2
    """What the cluster reports about the end of the run."""
    PROCESS_KILLED = 3
    """A process was killed, for an unknown reason."""
    TIMEOUT = 4
    """A rank timed out while it waited for other ranks."""
    PROCESS_EXITED = 5
    """A process exited by itself or on request, as all processes do after one has failed."""
    PEER_LOST = 6
    """A rank noticed that another rank was gone."""


@dataclass(frozen=True)
class FailureKind:
    """One kind of failure. Several kinds may belong to one class."""

    failure_class: str
    cause: str
    recovery: str
    retryable: bool = False
    precedence: Precedence = Precedence.CAUSE


_REPACK = (
    "Run data_prep/sft_packing first, or override dataset.nano3_packed_sft_dir to point at the directory "
    "that holds the packed splits. (Here `python -m trainer.pack` packs chat records, and "
    "inputs.packed_parquet is the same override.)"
)
_RESUMES = "Retry: the run resumes from its last complete checkpoint."

FAILURES: dict[str, FailureKind] = {
    "tokenizer_mismatch": FailureKind(
        "tokenizer_mismatch",
        "The tokenizer used during data_prep/sft_packing differs from the tokenizer used for training, "
        "so token identifiers do not align.",
        "Set the data_prep/sft_packing tokenizer to match the training model and regenerate the packed "
        "Parquet shards.",
    ),
    "oom": FailureKind(
        "oom",
        "GPU memory is exhausted during forward, backward, or optimizer steps.",
        "Reduce train.global_batch_size, increase parallelism, or reduce seq_length.",
    ),
    "host_oom": FailureKind(
        "oom",
        "The memory of the host, not of the GPU, is exhausted.",
        "Lower dataset.num_workers, run fewer ranks per node, or give the job more memory: on Slurm, set "
        "`mem` in the cluster's profile.",
    ),
    "missing_packed_data": FailureKind(
        "missing_packed_data",
        "The training loop cannot find packed Parquet shards at the configured dataset.nano3_packed_sft_dir.",
        _REPACK,
    ),
    "bad_packed_data": FailureKind(
        "missing_packed_data",
        "The packed Parquet shards are empty, corrupt, or not in the format that packing writes.",
        _REPACK,
    ),
    "bad_loss_masks_or_template": FailureKind(
        "bad_loss_masks_or_template",
        "The loss masks of the packed data train nothing, everything or the prompts.",
        "Check the chat template and the rule for masks that the data were packed with: only answers are "
        "trained, as a rule. Then pack the data again.",
    ),
    "bad_parallel_batch_shape": FailureKind(
        "bad_parallel_batch_shape",
        "GPUs, parallel sizes and batch sizes do not fit each other, the model or the data.",
        "nodes x GPUs must be a multiple of tensor x pipeline x context parallel size, "
        "train.global_batch_size a multiple of micro batch x data parallel size and at most the number of "
        "packs, train.micro_batch_size 1 for packed data; the tensor-parallel size must divide the attention "
        "heads.",
    ),
    "seq_length_mismatch": FailureKind(
        "seq_length_mismatch",
        "seq_length and the pack size of the data differ.",
        "Set seq_length to the pack_size of data_prep/sft_packing, or pack the data again.",
    ),
    "bad_checkpoint": FailureKind(
        "bad_checkpoint",
        "A checkpoint is missing, incomplete or does not fit the model.",
        "Name a complete checkpoint of this model, or none to begin from hf_model_path. "
        "If hf_model_path is corrupt, download the model again.",
    ),
    "hostile_checkpoint": FailureKind(
        "bad_checkpoint",
        "A checkpoint or model names code that it would run while it is loaded. Nothing of it was run.",
        "Use a checkpoint of Megatron-Bridge from a source that you trust, and weights in safetensors. "
        "docs/security.md lists the classes and targets that are allowed, and how an operator extends them.",
    ),
    "checkpoint_error": FailureKind(
        "bad_checkpoint",
        "A checkpoint could not be read or written.",
        "Read the end of the log for the first error, and check the path that it names.",
        precedence=Precedence.ERROR,
    ),
    "writer_lost": FailureKind(
        "bad_checkpoint",
        "The process that writes checkpoints in the background (checkpoint.async_save) ended unexpectedly.",
        "Retry without checkpoint.async_save. If signal 9 ended the process, the host may have run out of "
        "memory: an async save takes as much memory as the size of the checkpoint.",
        retryable=True,
        precedence=Precedence.PROCESS_KILLED,
    ),
    "hub_unreachable": FailureKind(
        "bad_checkpoint",
        "The base model could not be downloaded from its hub.",
        "Retry, or name a directory on the cluster that contains the model.",
        retryable=True,
    ),
    "node_fail": FailureKind(
        "node_fail",
        "A node or one of its GPUs failed.",
        f"{_RESUMES} If it happens again on the same node, tell the cluster's operators.",
        retryable=True,
    ),
    "port_taken": FailureKind(
        "node_fail",
        "Another process used the port for the rendezvous of the ranks.",
        "Retry: the next start uses another port.",
        retryable=True,
    ),
    "nccl_timeout": FailureKind(
        "nccl_timeout",
        "A rank timed out while it waited for the others: a rank hangs, or the network between them does.",
        f"{_RESUMES} If it happens again, find the rank whose log ends first.",
        retryable=True,
        precedence=Precedence.TIMEOUT,
    ),
    "peer_lost": FailureKind(
        "node_fail",
        "A rank lost the connection to another rank, which logged no error: its process or node is gone.",
        f"{_RESUMES} If it happens again on the same node, tell the cluster's operators.",
        retryable=True,
        precedence=Precedence.PEER_LOST,
    ),
    "preempted": FailureKind(
        "preempted",
        "The cluster preempted the run: it took the nodes for another job.",
        _RESUMES,
        retryable=True,
    ),
    "terminated": FailureKind(
        "preempted",
        "The run was terminated from outside the service, by SIGTERM.",
        _RESUMES,
        retryable=True,
        precedence=Precedence.PROCESS_EXITED,
    ),
    "time_limit": FailureKind(
        "time_limit",
        "The time limit was reached before the last step.",
        f"{_RESUMES} Or raise resources.time_limit_minutes.",
        retryable=True,
    ),
    "image_pull": FailureKind(
        "image_pull",
        "The container image could not be fetched or started.",
        "Check the image's name and the cluster's access to its registry.",
    ),
    "quota": FailureKind(
        "quota",
        "A quota of the account is exhausted.",
        "Free some of it or request more; then retry.",
    ),
    "disk_full": FailureKind(
        "disk_full",
        "A file system is full.",
        "Free space, keep fewer checkpoints (checkpoint.save_interval), or save elsewhere (checkpoint.save); "
        "then retry.",
    ),
    "scheduler_rejected": FailureKind(
        "scheduler_rejected",
        "The cluster rejected the submission.",
        "Read the scheduler's message in state_reason and correct the request.",
    ),
    "invalid_config": FailureKind(
        "invalid_config",
        "The training config is invalid for the trainer.",
        "Correct the named field: in a retry's overrides, or in a new job.",
    ),
    "user_code": FailureKind(
        "user_code",
        "The trainer stopped with an error.",
        "Read the evidence and the end of the log.",
        precedence=Precedence.ERROR,
    ),
    "crashed": FailureKind(
        "user_code",
        "A process of the run crashed in native code.",
        "Read the end of its log; a library may not fit the GPU, the driver or another library.",
        precedence=Precedence.PROCESS_KILLED,
    ),
    "aborted": FailureKind(
        "user_code",
        "A process of the run aborted itself.",
        "Read the end of its log.",
        precedence=Precedence.PROCESS_EXITED,
    ),
    "killed": FailureKind(
        "unknown",
        "A process of the run was killed by SIGKILL, for an unknown reason.",
        "Check whether the host ran out of memory. If not, retry from the last complete checkpoint.",
        retryable=True,
        precedence=Precedence.PROCESS_KILLED,
    ),
    "unknown": FailureKind(
        "unknown",
        "The run ended for an unknown reason.",
        "Read the end of the log. A retry resumes from the last complete checkpoint.",
        retryable=True,
        precedence=Precedence.PEER_LOST,
    ),
}


# Code of a check -> name of its failure in FAILURES, where they differ.
FAILURE_OF_CHECK = {"too_few_rows": "bad_parallel_batch_shape", "too_few_gpus": "bad_parallel_batch_shape"}


def failure_name(code: str) -> str:
    """Name in FAILURES for a name or for the code of a check; `invalid_config` for any other code."""
    name = FAILURE_OF_CHECK.get(code, code)
    return name if name in FAILURES else "invalid_config"


def explain(
    name: str,
    *,
    cause: str | None = None,
    recovery: str | None = None,
    evidence: Evidence | None = None,
    suggestion: Suggestion | None = None,
) -> Failure:
    """Return the failure of a name or a check's code. cause, recovery: replace those of the catalog."""
    kind = FAILURES[failure_name(name)]
    return Failure(
        failure_class=kind.failure_class,
        cause=cause or kind.cause,
        recovery=recovery or kind.recovery,
        retryable=kind.retryable,
        evidence=evidence or Evidence(),
        suggestion=suggestion,
    )
