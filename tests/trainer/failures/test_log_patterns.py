"""Match log patterns in samples. A sample is the log of a real failure or has its form, and says which."""

from pathlib import Path

import pytest

from trainer.config.training_config import TrainingConfig
from trainer.failures import FAILURES, LogTail, classify, explain, match_log
from trainer.failures.suggested_fixes import suggested_fixes

SAMPLES = Path(__file__).parent / "samples"

# Sample -> name of the failure, its class, and text of the decisive line.
EXPECTED = {
    "bridge-batch-size": (
        "bad_parallel_batch_shape",
        "bad_parallel_batch_shape",
        "eval_global_batch_size (3) must be divisible by",
    ),
    "bridge-broken-model-config": ("bad_checkpoint", "bad_checkpoint", "is not a valid JSON file"),
    "bridge-checkpoint-of-another-model": ("bad_checkpoint", "bad_checkpoint", "Global shape mismatch"),
    "bridge-disk-full": ("disk_full", "disk_full", "[Errno 28] No space left on device"),
    "bridge-empty-data": ("bad_packed_data", "missing_packed_data", "dataset is empty (0 rows)"),
    "bridge-garbage-parquet": ("bad_packed_data", "missing_packed_data", "not a parquet file"),
    "bridge-hostile-array": ("hostile_checkpoint", "bad_checkpoint", "calls numpy.dtype in a way"),
    "bridge-hostile-index": ("hostile_checkpoint", "bad_checkpoint", "names 'posix.system'"),
    "bridge-host-memory": ("host_oom", "oom", "(Cannot allocate memory)"),
    "bridge-micro-batch": (
        "bad_parallel_batch_shape",
        "bad_parallel_batch_shape",
        "your micro batch size is 2",
    ),
    "bridge-missing-column": ("bad_packed_data", "missing_packed_data", "missing required columns"),
    "bridge-no-tokenizer": ("bad_checkpoint", "bad_checkpoint", "instantiate the backend tokenizer"),
    "bridge-no-weights": ("bad_checkpoint", "bad_checkpoint", "requires loading from an available"),
    "bridge-port-taken": ("port_taken", "node_fail", "EADDRINUSE"),
    "bridge-shorter-seq-length": ("seq_length_mismatch", "seq_length_mismatch", "<= max_length"),
    "bridge-sigterm": ("terminated", "preempted", "SystemExit: 0"),
    "bridge-token-beyond-vocabulary": (
        "tokenizer_mismatch",
        "tokenizer_mismatch",
        "index out of range in self",
    ),
    "bridge-too-few-packs": (
        "bad_parallel_batch_shape",
        "bad_parallel_batch_shape",
        "train dataset size (551) < global batch size",
    ),
    "bridge-truncated-checkpoint": ("bad_checkpoint", "bad_checkpoint", "EOFError: Ran out of input"),
    "bridge-truncated-metadata": ("bad_checkpoint", "bad_checkpoint", "global metadata read failed"),
    "bridge-truncated-weights": ("bad_checkpoint", "bad_checkpoint", "SafetensorError"),
    "bridge-world-size": (
        "bad_parallel_batch_shape",
        "bad_parallel_batch_shape",
        "world size (2) is not divisible by",
    ),
    "torchrun-rank-crashed": ("crashed", "user_code", "Signal 11 (SIGSEGV)"),
    "torchrun-rank-killed": ("killed", "unknown", "Signal 9 (SIGKILL)"),
    "torchrun-terminated": ("terminated", "preempted", "got signal: 15"),
    "cuda-oom": ("oom", "oom", "CUDA out of memory. Tried to allocate 32.00 GiB"),
    "cuda-oom-outside-of-the-allocator": ("oom", "oom", "CUDA error: out of memory"),
    "cuda-token-beyond-vocabulary": ("tokenizer_mismatch", "tokenizer_mismatch", "srcSelectDimSize"),
    "dataloader-shared-memory": ("host_oom", "oom", "killed by signal: Bus error"),
    "disk-quota": ("quota", "quota", "Disk quota exceeded"),
    "gloo-peer-killed": ("killed", "unknown", "Signal 9 (SIGKILL)"),
    "gloo-timeout": ("nccl_timeout", "nccl_timeout", "Timed out waiting 5000ms"),
    "gpu-ecc": ("node_fail", "node_fail", "uncorrectable ECC error"),
    "gpu-xid": ("node_fail", "node_fail", "79, pid"),
    "hub-unreachable": ("hub_unreachable", "bad_checkpoint", "couldn't connect to"),
    "nccl-remote-error": ("peer_lost", "node_fail", "remote process exited"),
    "nccl-setup-timeout": ("nccl_timeout", "nccl_timeout", "wait timeout after 15000ms"),
    "nccl-watchdog-timeout": ("nccl_timeout", "nccl_timeout", "Watchdog caught collective"),
    "pyxis-image": ("image_pull", "image_pull", "failed to import docker image"),
    "slurm-node-failure": ("node_fail", "node_fail", "Node failure on node17"),
    "slurm-oom-kill": ("host_oom", "oom", "Detected 1 oom_kill event"),
    "lepton-begun-again": ("preempted", "preempted", "This attempt has begun before"),
    "slurm-preemption": ("preempted", "preempted", "DUE TO PREEMPTION"),
    "slurm-time-limit": ("time_limit", "time_limit", "DUE TO TIME LIMIT"),
    "two-ranks-on-one-gpu": ("bad_parallel_batch_shape", "bad_parallel_batch_shape", "Duplicate GPU"),
}

CLASSES = {
    "tokenizer_mismatch", "oom", "missing_packed_data", "bad_parallel_batch_shape", "seq_length_mismatch",
    "bad_checkpoint", "node_fail", "nccl_timeout", "preempted", "time_limit", "image_pull", "quota",
    "disk_full", "scheduler_rejected", "user_code", "unknown", "invalid_config",
    "bad_loss_masks_or_template",
}  # fmt: skip


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.log").read_bytes()


def test_every_sample_is_expected_and_states_its_origin() -> None:
    assert {path.stem for path in SAMPLES.iterdir()} == set(EXPECTED)
    assert all(sample(name).startswith((b"# Real: ", b"# Form: ")) for name in EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_sample_is_classified_by_its_decisive_line(name: str) -> None:
    expected, failure_class, text = EXPECTED[name]
    data = sample(name)
    match = match_log(LogTail(3, 1000, data))[0]
    assert (match.name, FAILURES[match.name].failure_class) == (expected, failure_class)
    assert text in match.line
    assert match.rank == 3
    # The range is relative to the complete log, and covers complete lines, with the decisive one among them.
    lines = data[match.offset - 1000 :][: match.limit].decode()
    assert text in lines
    assert data[match.offset - 1001 : match.offset - 1000] == b"\n"
    assert not lines.endswith("\n")


def test_the_classes_are_those_of_the_api() -> None:
    assert {kind.failure_class for kind in FAILURES.values()} == CLASSES
    assert all(kind.cause and kind.recovery for kind in FAILURES.values())


@pytest.mark.parametrize(
    ("failure_class", "recovery"),
    [
        ("tokenizer_mismatch", "regenerate the packed Parquet shards."),
        ("oom", "Reduce train.global_batch_size, increase parallelism, or reduce seq_length."),
        ("missing_packed_data", "Run data_prep/sft_packing first, or override dataset.nano3_packed_sft_dir"),
    ],
)
def test_recoveries_are_those_of_the_reference(failure_class: str, recovery: str) -> None:
    assert recovery in explain(failure_class).recovery


def test_codes_of_checks_map_to_failure_classes() -> None:
    assert explain("missing_model", cause="None is named.").failure_class == "invalid_config"
    assert explain("too_few_rows").failure_class == "bad_parallel_batch_shape"
    assert explain("bad_packed_data").failure_class == "missing_packed_data"


# -- several matches -------------------------------------------------------------------------------

CAUGHT = b"""Import of FP8 failed:
Traceback (most recent call last):
  File "/venv/megatron/core/utils.py", line 11, in <module>
    import transformer_engine
ModuleNotFoundError: No module named 'transformer_engine'

"""
KEY_ERROR = b"""Traceback (most recent call last):
  File "/venv/trainer/train.py", line 35, in train
    return values["x"]
KeyError: 'x'
"""


def test_a_cause_precedes_its_consequences() -> None:
    for consequence in ("nccl-remote-error", "nccl-watchdog-timeout", "gloo-peer-killed", "gloo-timeout"):
        for cause in ("cuda-oom", "gpu-ecc", "disk-quota", "slurm-oom-kill"):
            text = sample(consequence) + sample(cause)
            assert match_log(LogTail(0, 0, text))[0].name == EXPECTED[cause][0]
        assert match_log(LogTail(0, 0, sample(consequence) + KEY_ERROR))[0].name == "user_code"


def test_the_first_of_two_causes_wins() -> None:
    assert match_log(LogTail(0, 0, sample("cuda-oom") + sample("disk-quota")))[0].name == "oom"
    assert match_log(LogTail(0, 0, sample("disk-quota") + sample("cuda-oom")))[0].name == "quota"


def test_an_unknown_error_is_the_last_traceback() -> None:
    [match] = match_log(LogTail(0, 0, CAUGHT + KEY_ERROR + b"the end\n"))
    assert (match.name, match.line) == ("user_code", "KeyError: 'x'")
    assert (match.offset, match.limit) == (len(CAUGHT), len(KEY_ERROR) - 1)


def test_the_launchers_list_of_failed_ranks_does_not_match() -> None:
    summary = sample("two-ranks-on-one-gpu")
    launcher = KEY_ERROR.replace(b"KeyError: 'x'", b"torch.distributed.ChildFailedError: ")
    assert b"ChildFailedError" not in summary
    assert match_log(LogTail(None, 0, launcher)) == []


@pytest.mark.parametrize(
    "harmless",
    [
        "SFT_EVENT " + '{"event": "failed", "traceback": "torch.OutOfMemoryError: CUDA out of memory. Tried '
        'to allocate 2 GiB"}',
        "a record about CUDA and memory",
        "torch.cuda.memory.MemoryErrors = 0",
        " [2026-11-23 02:29:30] iteration       12/      20 | lm loss: 2.713025E+00 |",
        "NCCL INFO Connected all rings, use ring PXN 0 GDR 1",
        "OSError: [Errno 2] No such file or directory: 'x'",
    ],
)
def test_a_harmless_line_does_not_match(harmless: str) -> None:
    assert match_log(LogTail(0, 0, f"{harmless}\n".encode())) == []


# -- arbitrary bytes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "junk",
    [b"", b"\n", b"\x00" * 1000, b"\xff\xfe\xfd\n" * 300, b"Traceback (most recent call last):\n" * 5000,
     b"x" * 300_000, b"(1) " * 60_000, b"[rank0]: " * 30_000, b" \n" * 100_000, b"*** JOB " * 30_000],
    ids=lambda junk: f"{junk[:12]!r}",
)  # fmt: skip
def test_a_pattern_is_found_between_any_junk(junk: bytes) -> None:
    text = junk + b"\n" + sample("cuda-oom") + junk
    assert match_log(LogTail(0, 0, text))[0].name == "oom"
    assert LogTail(0, 0, text).last_lines() is not None


def test_a_line_is_short_and_safe_for_a_terminal() -> None:
    text = b"\x1b[31mRuntimeError: CUDA error: out of memory\x00\x07\xe2\x80\xae\xff" + b"y" * 5000
    line = match_log(LogTail(0, 0, text))[0].line
    assert line.startswith("RuntimeError: CUDA error: out of memory\ufffd\ufffd\ufffd\ufffdyyy")
    assert len(line) == 500
    assert line.isprintable()


def test_a_tail_that_begins_inside_a_traceback_still_matches() -> None:
    text = sample("cuda-oom")
    assert match_log(LogTail(0, 0, text[text.index(b"randn") :]))[0].name == "oom"


def test_the_last_lines_are_not_empty_and_no_events() -> None:
    text = b"first\n" * 50 + b'SFT_EVENT {"event": "step"}\n\n  \nlast \x1b[0mwords\n\n'
    assert LogTail(0, 0, text).last_lines() == ["first"] * 9 + ["last words"]


def test_a_traceback_is_classified() -> None:
    assert classify(KEY_ERROR.decode()) == "user_code"
    assert classify("no traceback at all") == "user_code"
    assert (
        classify("Traceback (most recent call last):\n  x\ntrainer.checkpoints.Incomplete: a.b")
        == "bad_checkpoint"
    )
    assert classify(sample("gloo-peer-killed").decode().partition("W1123")[0]) == "peer_lost"


# -- suggested fixes -------------------------------------------------------------------------------


def suggested(
    name: str, config: dict[str, object], gpus: int = 8, minutes: int = 60
) -> list[tuple[str, object]]:
    found = suggested_fixes(name, TrainingConfig.model_validate(config), gpus, minutes, 100)
    return [(one.field, one.to) for one in found]


def test_fixes_for_oom_are_smaller_batches_then_more_parallelism_then_recomputation() -> None:
    config = {"train": {"micro_batch_size": 5}, "recipe": {"tensor_model_parallel_size": 2}}
    fields = suggested("oom", config)
    assert fields[:3] == [
        ("train.micro_batch_size", 2),
        ("recipe.tensor_model_parallel_size", 4),
        ("recipe.tensor_model_parallel_size", 8),
    ]
    assert fields[3][0] == "model"
    # If the model section sets the size, a change of the recipe would have no effect.
    own = {"model": {"tensor_model_parallel_size": 4, "recompute_granularity": "full"}}
    assert suggested("oom", own) == [("model.tensor_model_parallel_size", 8)]
    assert suggested("oom", own, gpus=4) == []


def test_other_suggested_fixes() -> None:
    assert suggested("host_oom", {}) == [("dataset.num_workers", 1)]
    assert suggested("host_oom", {"dataset": {"num_workers": 0}}) == []
    assert suggested("host_oom", {"device": "cpu"}) == []
    assert suggested("time_limit", {}, minutes=30) == [("resources.time_limit_minutes", 60)]
    assert suggested("time_limit", {}, minutes=60) == [("resources.time_limit_minutes", 100)]
    assert suggested("time_limit", {}, minutes=100) == []
    in_background = {"checkpoint": {"async_save": True}}
    assert suggested("writer_lost", in_background) == [("checkpoint.async_save", False)]
    fixable = {"oom", "host_oom", "time_limit", "writer_lost"}
    assert all(suggested(name, {}) == [] for name in set(FAILURES) - fixable)
