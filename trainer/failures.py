"""Why runs fail: for each class of failure its cause, the way out, and whether a retry can help. No torch.

The texts of tokenizer_mismatch, oom and missing_packed_data are those of NVIDIA's reference of
the step sft/megatron_bridge.
"""

from pydantic import BaseModel, ConfigDict, Field


class Failure(BaseModel):
    """What a client reads about a job that did not succeed."""

    model_config = ConfigDict(populate_by_name=True)

    failure_class: str = Field(alias="class", description="One of the known classes, or `unknown`.")
    cause: str = Field(description="What happened, in one sentence.")
    recovery: str = Field(description="What to do about it.")
    retryable: bool = Field(description="Whether the same job may succeed when it is tried again.")


def _failure(name: str, cause: str, recovery: str, *, retryable: bool = False) -> Failure:
    return Failure(failure_class=name, cause=cause, recovery=recovery, retryable=retryable)


FAILURES: dict[str, Failure] = {
    failure.failure_class: failure
    for failure in (
        _failure(
            "tokenizer_mismatch",
            "The tokenizer used during data_prep/sft_packing differs from the tokenizer used for training, "
            "so token identifiers do not align.",
            "Set the data_prep/sft_packing tokenizer to match the training model and regenerate the packed "
            "Parquet shards.",
        ),
        _failure(
            "oom",
            "GPU memory is exhausted during forward, backward, or optimizer steps.",
            "Reduce train.global_batch_size, increase parallelism, or reduce seq_length.",
        ),
        _failure(
            "missing_packed_data",
            "The training loop cannot find packed Parquet shards at the configured "
            "dataset.nano3_packed_sft_dir.",
            "Run data_prep/sft_packing first, or override dataset.nano3_packed_sft_dir to point at the "
            "directory that holds the packed splits. (Here `python -m trainer.pack` packs chat records, and "
            "inputs.packed_parquet is the same override.)",
        ),
        _failure(
            "invalid_config",
            "The training config is not one that the trainer can run.",
            "Correct the named field and submit the job again.",
        ),
        _failure(
            "bad_checkpoint",
            "A checkpoint is missing, incomplete or does not fit the model.",
            "Name a complete checkpoint, or none to begin from hf_model_path.",
        ),
        _failure(
            "time_limit",
            "The time limit was reached before the last step.",
            "Retry: the run goes on from its last complete checkpoint. "
            "Or raise resources.time_limit_minutes.",
            retryable=True,
        ),
        _failure(
            "scheduler_rejected",
            "The cluster refused the submission.",
            "Read the scheduler's own words in state_reason and correct the request.",
        ),
        _failure(
            "user_code",
            "The trainer stopped with an error.",
            "Read the evidence and the end of the log.",
        ),
        _failure(
            "unknown",
            "The run ended, and nothing says why.",
            "Read the end of the log; a retry goes on from the last complete checkpoint.",
            retryable=True,
        ),
    )
}


def explain(code: str, *, cause: str | None = None, recovery: str | None = None) -> Failure:
    """The failure of a class, with this run's own cause and recovery where they are known."""
    known = FAILURES.get(code, FAILURES["user_code"])
    return known.model_copy(update={"cause": cause or known.cause, "recovery": recovery or known.recovery})
