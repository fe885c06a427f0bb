"""The known ways to fail: class, cause, recovery, and whether the same again can succeed.

The texts of tokenizer_mismatch, oom and missing_packed_data are those of NVIDIA's reference of
the step sft/megatron_bridge.
"""

from dataclasses import dataclass
from enum import IntEnum

from pydantic import BaseModel, ConfigDict, Field

from trainer.suggestion import Suggestion


class Evidence(BaseModel):
    """Where a failure shows."""

    attempt: int | None = None
    rank: int | None = Field(default=None, description="Whose log it is; null: that of the whole attempt.")
    offset: int | None = Field(default=None, description="First byte of the decisive lines in that log.")
    limit: int | None = Field(default=None, description="Their length in bytes, as GET logs takes it.")
    line: str | None = Field(default=None, description="The line that decided, cut where it is long.")
    last_lines: list[str] = Field(default=[], description="The end of the log, where no line explains.")
    traceback: str | None = Field(default=None, description="The end of the trainer's own traceback.")


class Failure(BaseModel):
    """What a client reads about a job that did not succeed."""

    model_config = ConfigDict(populate_by_name=True)

    failure_class: str = Field(alias="class", description="One of the known classes, or `unknown`.")
    cause: str = Field(description="What happened, in one sentence.")
    recovery: str = Field(description="What to do about it.")
    retryable: bool = Field(
        description="Whether the same job, with nothing changed, may succeed when it is tried again. A retry "
        "is allowed either way: where this is false, change something, in the retry or outside of it."
    )
    evidence: Evidence = Field(default_factory=Evidence)
    suggestion: Suggestion | None = Field(
        default=None, description="A change with which a retry may succeed: apply_suggestion sets it."
    )


class Weight(IntEnum):
    """How much a sign explains: of several the lowest counts, whoever wrote it first."""

    CAUSE = 0
    """It says what went wrong."""
    ERROR = 1
    """An exception that nothing here knows."""
    WORD = 2
    """What the cluster says of the end."""
    DEATH = 3
    """A process was ended, and nothing says by whom."""
    WAIT = 4
    """A rank waited for others in vain."""
    LEAVING = 5
    """A process ended itself, or when it was told to, as all do once one has failed."""
    ECHO = 6
    """A rank noticed that another was gone."""


@dataclass(frozen=True)
class Known:
    """One way to fail. Several may belong to one class."""

    failure_class: str
    cause: str
    recovery: str
    retryable: bool = False
    weight: Weight = Weight.CAUSE


_REPACK = (
    "Run data_prep/sft_packing first, or override dataset.nano3_packed_sft_dir to point at the directory "
    "that holds the packed splits. (Here `python -m trainer.pack` packs chat records, and "
    "inputs.packed_parquet is the same override.)"
)
_GOES_ON = "Retry: the run goes on from its last complete checkpoint."

FAILURES: dict[str, Known] = {
    "tokenizer_mismatch": Known(
        "tokenizer_mismatch",
        "The tokenizer used during data_prep/sft_packing differs from the tokenizer used for training, "
        "so token identifiers do not align.",
        "Set the data_prep/sft_packing tokenizer to match the training model and regenerate the packed "
        "Parquet shards.",
    ),
    "oom": Known(
        "oom",
        "GPU memory is exhausted during forward, backward, or optimizer steps.",
        "Reduce train.global_batch_size, increase parallelism, or reduce seq_length.",
    ),
    "host_oom": Known(
        "oom",
        "The memory of the host, not of the GPU, is exhausted.",
        "Lower dataset.num_workers, put fewer ranks on a node, or give the job more memory: on Slurm that is "
        "`mem` in the cluster's profile.",
    ),
    "missing_packed_data": Known(
        "missing_packed_data",
        "The training loop cannot find packed Parquet shards at the configured dataset.nano3_packed_sft_dir.",
        _REPACK,
    ),
    "bad_packed_data": Known(
        "missing_packed_data",
        "The packed Parquet shards are empty, damaged, or not what packing writes.",
        _REPACK,
    ),
    "bad_parallel_batch_shape": Known(
        "bad_parallel_batch_shape",
        "GPUs, parallel sizes and batch sizes do not fit each other, the model or the data.",
        "Let nodes x GPUs be a multiple of tensor x pipeline x context parallel size, "
        "train.global_batch_size one of micro batch x data parallel size and no more than there are packs, "
        "train.micro_batch_size 1 for packed data; the tensor-parallel size divides the attention heads.",
    ),
    "seq_length_mismatch": Known(
        "seq_length_mismatch",
        "seq_length and the pack size of the data differ.",
        "Set seq_length to the pack_size of data_prep/sft_packing, or pack the data again.",
    ),
    "bad_checkpoint": Known(
        "bad_checkpoint",
        "A checkpoint is missing, incomplete or does not fit the model.",
        "Name a complete checkpoint of this model, or none to begin from hf_model_path; "
        "where that one is damaged, fetch it again.",
    ),
    "checkpoint_error": Known(
        "bad_checkpoint",
        "A checkpoint could not be read or written.",
        "Read the end of the log for the first error; look at the place that it names.",
        weight=Weight.ERROR,
    ),
    "writer_lost": Known(
        "bad_checkpoint",
        "The process that writes checkpoints in the background (checkpoint.async_save) ended by itself.",
        "Retry without checkpoint.async_save. Ended by signal 9, the host may have run out of memory, of "
        "which such a save takes as much as the checkpoint is large.",
        retryable=True,
        weight=Weight.DEATH,
    ),
    "hub_unreachable": Known(
        "bad_checkpoint",
        "The base model could not be fetched from its hub.",
        "Retry, or name a directory on the cluster that holds the model.",
        retryable=True,
    ),
    "node_fail": Known(
        "node_fail",
        "A node, or a GPU of it, failed.",
        f"{_GOES_ON} If it happens again on the same node, tell the cluster's operators.",
        retryable=True,
    ),
    "port_taken": Known(
        "node_fail",
        "Another process had taken the port on which the ranks were to meet.",
        "Retry: another start takes another port.",
        retryable=True,
    ),
    "nccl_timeout": Known(
        "nccl_timeout",
        "A rank waited for the others until its time limit: one of them hangs, or the network between them.",
        f"{_GOES_ON} If it happens again, look for the rank whose log ends first.",
        retryable=True,
        weight=Weight.WAIT,
    ),
    "peer_lost": Known(
        "node_fail",
        "A rank lost the connection to another one that left no word: its process or node is gone.",
        f"{_GOES_ON} If it happens again on the same node, tell the cluster's operators.",
        retryable=True,
        weight=Weight.ECHO,
    ),
    "preempted": Known("preempted", "The cluster took the nodes for another job.", _GOES_ON, retryable=True),
    "terminated": Known(
        "preempted",
        "The run was ended from outside of the service, by SIGTERM.",
        _GOES_ON,
        retryable=True,
        weight=Weight.LEAVING,
    ),
    "time_limit": Known(
        "time_limit",
        "The time limit was reached before the last step.",
        f"{_GOES_ON} Or raise resources.time_limit_minutes.",
        retryable=True,
    ),
    "image_pull": Known(
        "image_pull",
        "The container image could not be fetched or started.",
        "Check the image's name and the cluster's access to its registry.",
    ),
    "quota": Known(
        "quota",
        "A quota of the account is used up.",
        "Free some of it or ask for more; then retry.",
    ),
    "disk_full": Known(
        "disk_full",
        "A file system is full.",
        "Free space, keep fewer checkpoints (checkpoint.save_interval), or save elsewhere (checkpoint.save); "
        "then retry.",
    ),
    "scheduler_rejected": Known(
        "scheduler_rejected",
        "The cluster refused the submission.",
        "Read the scheduler's own words in state_reason and correct the request.",
    ),
    "invalid_config": Known(
        "invalid_config",
        "The training config is not one that the trainer can run.",
        "Correct the named field: in a retry's overrides, or in a new job.",
    ),
    "user_code": Known(
        "user_code",
        "The trainer stopped with an error.",
        "Read the evidence and the end of the log.",
        weight=Weight.ERROR,
    ),
    "crashed": Known(
        "user_code",
        "A process of the run crashed in native code.",
        "Read the end of its log; a library may not fit the GPU, the driver or another library.",
        weight=Weight.DEATH,
    ),
    "aborted": Known(
        "user_code",
        "A process of the run aborted itself.",
        "Read the end of its log.",
        weight=Weight.LEAVING,
    ),
    "killed": Known(
        "unknown",
        "A process of the run was ended by SIGKILL, and nothing says by whom.",
        "Look whether the host ran out of memory; else retry, from the last complete checkpoint.",
        retryable=True,
        weight=Weight.DEATH,
    ),
    "unknown": Known(
        "unknown",
        "The run ended, and nothing says why.",
        "Read the end of the log; a retry goes on from the last complete checkpoint.",
        retryable=True,
        weight=Weight.ECHO,
    ),
}


# Codes of checks that say more than the class that they belong to.
OF_CHECKS = {"too_few_rows": "bad_parallel_batch_shape", "too_few_gpus": "bad_parallel_batch_shape"}


def known_as(code: str) -> str:
    """The name in the table for the code of a check, or for a name. All else is about the config."""
    name = OF_CHECKS.get(code, code)
    return name if name in FAILURES else "invalid_config"


def explain(
    name: str,
    *,
    cause: str | None = None,
    recovery: str | None = None,
    evidence: Evidence | None = None,
    suggestion: Suggestion | None = None,
) -> Failure:
    """The failure of a name (or of a check's code), with this run's own cause and recovery where known."""
    known = FAILURES[known_as(name)]
    return Failure(
        failure_class=known.failure_class,
        cause=cause or known.cause,
        recovery=recovery or known.recovery,
        retryable=known.retryable,
        evidence=evidence or Evidence(),
        suggestion=suggestion,
    )
