"""Passthrough arguments: a flag named like a field of the config sets it; what maps to nothing is refused."""

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


def test_values_mean_what_they_mean_in_a_dotlist() -> None:
    config = composed("--peft", "lora", "--hf-model-path=a/b", "--mixed-precision", "bf16_mixed").config
    assert (config.peft, config.hf_model_path, config.mixed_precision) == ("lora", "a/b", "bf16_mixed")
    assert composed("--peft", "lora", "--peft", "null").config.peft is None


def test_a_fault_points_at_the_flag() -> None:
    with pytest.raises(InvalidSpec) as refused:
        composed("--peft", "lora", "--seq-length", "many")
    assert refused.value.errors[0].pointer == "/args/2"


@pytest.mark.parametrize(
    ("args", "where", "words"),
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
def test_what_maps_to_nothing_is_refused(args: list[str], where: str, words: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        composed(*args)
    [fault] = refused.value.errors
    assert (fault.pointer, fault.code) == (where, "unknown_argument")
    assert words in str(fault.hint)
