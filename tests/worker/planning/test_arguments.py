"""Passthrough arguments: a flag sets the config field of the same name; unknown flags are rejected."""

from typing import Any

import pytest

from trainer.config.presets import load_preset
from worker.errors import InvalidSpec
from worker.planning.config import compose
from worker.planning.spec import JobSpec


def composed(*args: str, **spec: Any) -> Any:
    return compose(JobSpec(name="x", args=list(args), **spec), load_preset("cpu-tiny"))


@pytest.mark.parametrize(
    "args",
    [("--seq-length", "8192"), ("--seq-length=8192",), ("--seq_length", "8192"), ("--seq_length=8192",)],
)
def test_dashes_are_underscores(args: tuple[str, ...]) -> None:
    assert composed(*args).config.seq_length == 8192


def test_values_are_parsed_as_in_a_dotlist() -> None:
    config = composed("--peft", "lora", "--hf-model-path=a/b", "--mixed-precision", "bf16_mixed").config
    assert (config.peft, config.hf_model_path, config.mixed_precision) == ("lora", "a/b", "bf16_mixed")
    assert composed("--peft", "lora", "--peft", "null").config.peft is None


def test_an_error_points_at_the_flag() -> None:
    with pytest.raises(InvalidSpec) as rejected:
        composed("--peft", "lora", "--seq-length", "many")
    assert rejected.value.errors[0].pointer == "/args/2"


@pytest.mark.parametrize(
    ("args", "where", "hint"),
    [
        (["--seq-lenght", "1"], "/args/0", "'seq_length'"),
        (["--peft", "lora", "fast"], "/args/2", "--seq-length 8192"),
        (["--seq-length"], "/args/0", "--seq-length VALUE"),
        (["--seq-length", "--peft"], "/args/0", "--seq-length VALUE"),
        (["--train", "{}"], "/args/0", "train.KEY=VALUE"),
        (["--train.global-batch-size", "8"], "/args/0", "Known names"),
        (["-x"], "/args/0", "A flag looks like"),
        ([""], "/args/0", "A flag looks like"),
    ],
)
def test_an_unknown_argument_is_rejected(args: list[str], where: str, hint: str) -> None:
    with pytest.raises(InvalidSpec) as rejected:
        composed(*args)
    [error] = rejected.value.errors
    assert (error.pointer, error.code) == (where, "unknown_argument")
    assert hint in str(error.hint)
