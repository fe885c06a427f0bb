"""The secrets of Megatron-Bridge's config are marked, and no name or text of it is mistaken for one."""

from typing import Any

import pytest

from trainer.config.bridge_schema import definitions, recipes, secret_keys
from trainer.config.models import NANO
from trainer.config.secret_patterns import describes_secret, holds_secret, is_secret_name, redacted
from trainer.config.section_checks import section_faults
from trainer.config.training_config import TrainingConfig, walk


def fields() -> list[tuple[str, Any]]:
    return [field for one in definitions().values() for field in one.get("properties", {}).items()]


def test_every_field_of_bridge_that_holds_a_secret_is_marked() -> None:
    """By its name and by what Bridge's documentation says of it."""
    named = {name for name, _schema in fields() if is_secret_name(name)}
    described = {name for name, schema in fields() if describes_secret(schema.get("description", ""))}
    assert named | described == secret_keys() == {"comet_api_key"}


def test_no_value_of_a_recipe_is_rejected() -> None:
    for recipe in recipes().values():
        for where, value in walk(dict(recipe.values)):
            if isinstance(value, str):
                assert not holds_secret(value), where


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"logger": {"comet_api_key": "x"}}, "not_settable"),
        ({"recipe": {"comet_api_key": "x"}}, "unknown_key"),
        ({"logger": {"wandb_exp_name": "${oc.env:HOME}"}}, "interpolation"),
        ({"logger": {"mlflow_tags": {"${oc.env:HOME}": "x"}}}, "interpolation"),
        ({"dataset": {"nano3_packed_sft_dir": "/${oc.env:HOME}"}}, "interpolation"),
        ({"checkpoint_megatron": "/\\${oc.env:HOME}"}, "interpolation"),
    ],
)
def test_the_trainer_rejects_secrets_and_interpolations(values: dict[str, Any], code: str) -> None:
    config = TrainingConfig.model_validate({"hf_model_path": NANO, **values})
    assert [fault.code for fault in section_faults(config)] == [code]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /v1/keys/hf_" + "a" * 34, "GET /v1/keys/***"),
        ("https://host/x?page=2&api_key=abc&z=1", "https://host/x?page=2&api_key=***&z=1"),
        ("see api_key=abcdefgh, thanks", "see ***, thanks"),
        ("https://anna:hunter2@host/x", "***host/x"),
        ("run with HF_TOKEN=hunter2hunter2 set", "run with *** set"),
        ("a%2Fhf_" + "a" * 34, "***"),
        ("nothing of the kind", "nothing of the kind"),
    ],
)
def test_a_secret_is_replaced(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "part",
    ["eyJ", "-eyJ", "sft_", "_sft_a", "://", "-----BEGIN A", "password ", "_A", "A", "a:/", "?a;", "%25"],
)
def test_the_search_is_linear(part: str) -> None:
    """The test's own time limit ends a search that is not: a million characters take a second at most."""
    holds_secret(part * (1_000_000 // len(part)))
