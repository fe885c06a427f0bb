"""Sequence lengths must be equal everywhere, and in the list of the seed's models."""

import pytest

from trainer.config.effective import Effective
from trainer.config.models import NANO, SUPER
from trainer.config.training_config import TrainingConfig
from trainer.preflight.lengths import check


def codes(**values: object) -> list[str]:
    config = TrainingConfig.model_validate({"hf_model_path": NANO, **values})
    return [finding.code for finding in check(Effective(config))]


@pytest.mark.parametrize("model", [NANO, SUPER])
@pytest.mark.parametrize("length", [2048, 4096, 8192, 16384, 32768, 40000, 65536])
def test_lengths_in_the_list_and_above_it_are_accepted(model: str, length: int) -> None:
    assert codes(hf_model_path=model, seq_length=length) == []


@pytest.mark.parametrize("model", [NANO, SUPER])
@pytest.mark.parametrize("length", [512, 4095, 5000, 32767])
def test_other_lengths_are_rejected_with_the_nearest(model: str, length: int) -> None:
    config = TrainingConfig(hf_model_path=model, seq_length=length)
    [finding] = check(Effective(config))
    assert (finding.severity, finding.code) == ("error", "seq_length_not_offered")
    assert finding.suggestion is not None
    assert finding.suggestion.to == min((2048, 4096, 8192, 16384, 32768), key=lambda one: abs(one - length))


def test_other_models_accept_any_length() -> None:
    assert codes(hf_model_path="meta-llama/Llama-3.2-1B", seq_length=777) == []


@pytest.mark.parametrize("section", ["model", "dataset"])
def test_different_lengths_are_rejected(section: str) -> None:
    assert codes(**{section: {"seq_length": 8192}}) == ["seq_length_mismatch"]
    assert codes(**{section: {"seq_length": 4096}}) == []
    specs = {"offline_packing_specs": {"packed_sequence_size": 2048}}
    assert codes(dataset=specs) == ["seq_length_mismatch"]
