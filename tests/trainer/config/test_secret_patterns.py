"""The secrets of Megatron-Bridge's config are marked, and no name or text of it is mistaken for one."""

import secrets
from typing import Any
from uuid import UUID

import pytest

from trainer.config.bridge_schema import definitions, recipes, secret_keys
from trainer.config.models import NANO
from trainer.config.secret_patterns import (
    describes_secret,
    holds_secret,
    is_secret_label,
    is_secret_name,
    redacted,
)
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


KEY = "sft_" + secrets.token_urlsafe(32)
"""A key as worker/auth/keys.py makes them."""
MIXED = "aB3dE6gH9j" * 9

TOKENS = {
    "Hugging Face": "hf_" + MIXED[:34],
    "Hugging Face, letters": "hf_" + "abcdeFGHIJ" * 3 + "klmn",
    "Hugging Face, an organization": "api_org_" + "abcdeFGHIJ" * 3 + "klmn",
    "this service": KEY,
    "this service, in a path": f"/data/{KEY}/x",
    "GitHub": "ghp_" + MIXED[:36],
    "GitHub, of an app": "ghs_" + MIXED[:36],
    "GitHub, fine": f"github_pat_{MIXED[:22]}_{MIXED[:59]}",
    "GitLab": "glpat-" + MIXED[:20],
    "GitLab, of a runner": "glrt-" + MIXED[:20],
    "GitLab, few capitals": "glpat-" + "ab3defgHijklmnopqrst",
    "Docker, few capitals": "dckr_pat_" + "ab3defgHijklmnopqrstuvwxyza",
    "OpenAI, without a digit early": "sk-" + "abcdefghijklmnopqrstuvwxyzabcdefgh" + MIXED[:14],
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "AWS, temporary": "ASIAIOSFODNN7EXAMPLE",
    "Slack": "xoxb-123456789012-1234567890123-" + MIXED[:24],
    "OpenAI": "sk-" + MIXED[:48],
    "OpenAI, of a project": "sk-proj-" + MIXED[:74] + "-_" + MIXED[:60],
    "Anthropic": "sk-ant-api03-" + MIXED + "-AA",
    "DeepSeek": "sk-" + "0a1b2c3d" * 4,
    "Stripe": "sk_live_" + MIXED[:24],
    "NVIDIA": "nvapi-" + MIXED[:64],
    "Google": "AIza" + MIXED[:35],
    "Google, OAuth": "ya29." + MIXED[:60],
    "Weights & Biases": "wandb_v1_" + MIXED[:77],
    "Neptune": "eyJhcGlfYWRkcmVzcyI6Imh0dHBzOi8vYXBwLm5lcHR1bmUuYWkiLCJhcGlfdXJsIjoi",
    "npm": "npm_" + MIXED[:36],
    "PyPI": "pypi-AgEIcHlwaS5vcmc" + MIXED,
    "Docker": "dckr_pat_" + MIXED[:27],
    "Databricks": "dapi" + "0a1b2c3d" * 4,
    "JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln",
    "private key": "-----BEGIN EC PRIVATE KEY----- MHcCAQEE",
    "PostgreSQL": "postgresql://anna:hunter2@db/train",
    "PostgreSQL, a driver": "postgresql+psycopg://anna:hunter2@db:5432/train",
    "PostgreSQL, capitals": "POSTGRES://anna:hunter2@db/train",
    "MySQL": "mysql://anna:hunter2@db/train",
    "MongoDB": "mongodb+srv://anna:hunter2@db/train",
    "Redis": "redis://:hunter2@cache:6379/0",
    "AMQP": "amqps://anna:hunter2@broker/x",
    "S3": "s3://AKID:hunter2@bucket/x",
    "a slash in the password": "postgresql://anna:hun/ter2@db/train",
    "JDBC": "jdbc:postgresql://db/train?user=anna&password=hunter2",
    "keywords of libpq": "host=db user=anna password=hunter2 dbname=train",
    "ODBC": "Driver=x;Server=db;Uid=anna;Pwd=hunter2;",
    "Azure": "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=" + MIXED[:40] + "==",
    "Azure, a bus": "Endpoint=sb://a/;SharedAccessKeyName=b;SharedAccessKey=" + MIXED[:43] + "=",
    "Azure, signed": "https://a.blob.core.windows.net/c?sv=2024&sig=" + MIXED[:40],
    "a user with a token": f"https://anna:{MIXED[:30]}@git/x.git",
    "a token as user": f"https://{MIXED[:30]}@git/x.git",
    "a token after oauth2": f"https://oauth2:{MIXED[:20]}@git/x.git",
    "an assignment": "refresh_token=hunter2-of-ours",
}  # fmt: skip


@pytest.mark.parametrize("text", TOKENS.values(), ids=TOKENS)
def test_a_text_with_a_token_is_found(text: str) -> None:
    assert holds_secret(text)
    assert holds_secret(f"see {text} there")
    assert text not in redacted(f"see {text} there")


@pytest.mark.parametrize("_", range(50))
def test_every_key_of_this_service_is_found(_: int) -> None:
    assert holds_secret(f"sft_{secrets.token_urlsafe(32)}")


def test_a_key_without_digits_is_found() -> None:
    assert holds_secret("sft_" + ("abcdeFGHIJ" * 5)[:43])


@pytest.mark.parametrize(
    "text",
    [
        "hf_nemotronnano9bv2checkpointof20261127", "/data/hf_converted_nemotron_nano_9b_v2_of_the_team",
        "hf_" + "0a1b2c3d" * 5, "hf_NemotronNano9Bv2", "HF_HOME", "hf_" + "x" * 24,
        "sft_" + str(UUID(int=0x1234567890ABCDEF1234567890ABCDEF)),
        "sft_" + UUID(int=0x1234567890ABCDEF1234567890ABCDEF).hex,
        "sft_" + "0a1b2c3d" * 8, "/runs/sft_of_nemotron-nano-9b-v2_on_the_support_data",
        "sft_Nemotron-Nano-9B-v2_on_the_support_data_set_of_2026",
        "ghp_pages", "github_pat_docs", "glpat-notes", "AKIRA-2026", "xoxb-notes-of-the-team",
        "sk-learn-pipelines",
        "sk-proj-data-of-the-support-team-2026", "sk-ant-colony-optimization-of-the-schedule",
        "sk_test_data", "sk-" + "nemotron" * 4, "nvapi-docs", "nvapi-client-of-the-team-for-inference-2026",
        "AIzawa", "ya29.txt",
        "npm_cache", "pypi-mirror", "dckr_pat_notes", "dapi-v2", "eyJ.eyJ", "wandb_v1_notes",
        "0a1b2c3d" * 5, "1234567890abcdef" * 4, str(UUID(int=2**127)),
        "token: 4b", "auth: sso", "secret: no", "password: no", "password: required", "api_key: none",
        "tokens=4000000000", "https://host:8080/path", "https://host/a@b", "ssh://git@host/x",
        "user@host:/data",
        "postgresql://anna@db/train", "postgresql://db/train", "nvidia/Nemotron-Nano-9B-v2@main",
        "http://proxy:3128/x?page=2", "PWD=/home/anna", "s3://bucket/data@2026/train",
    ],
)  # fmt: skip
def test_a_text_without_a_token_is_none(text: str) -> None:
    assert not holds_secret(text)
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "hunter2"), ("db_password", "hunter2-of-ours"), ("token", "hunter2-of-ours"),
        ("token", "hunter2"), ("auth", "hunter2"), ("secret", "hunter2"), ("api_key", "x"),
        ("passphrase", "letmein"), ("API-Key", "abc"), ("hf_token", "abc"), ("credentials", "anna:pw"),
        ("private_key", "abc"), ("ssh_key", "abc"), ("accessToken", "abc"),
        ("connection_string", "Server=db"), ("wandb_key", "abc"), ("token", MIXED), ("secret", MIXED),
        ("auth", MIXED), ("pwd", "abc"), ("secret", "0a1b2c3d" * 4),
    ],
)  # fmt: skip
def test_a_label_with_the_name_of_a_secret_is_one(name: str, value: str) -> None:
    assert is_secret_label(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("token", "4b"), ("tokens", "9B"), ("token", "1.5T"), ("token", "512"), ("auth", "sso"),
        ("auth", "oauth2"), ("auth", "oidc"), ("secret", "no"), ("secret", "yes"), ("secret", "none"),
        ("secret", "internal"), ("password", "no"), ("password", "none"), ("api_key", "false"),
        ("credentials", "none"), ("author", "anna"), ("key", "v"), ("token_budget", "4b"),
        ("eos_token", "eos"), ("train_tokens", "4000000000"), ("hf_token", "none"), ("token", ""),
        ("password", "-"), ("secret", "n/a"),
    ],
)  # fmt: skip
def test_a_label_with_a_harmless_value_is_none(name: str, value: str) -> None:
    assert not is_secret_label(name, value)


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
    ["eyJ", "-eyJ", "sft_", "_sft_a", "://", "-----BEGIN A", "password ", "_A", "A", "a:/", "?a;", "%25",
     "postgres://a:", "sk-proj-a", "glpat-A", "hf_a", "sft_A", ";pwd=", "eyJhcGlfYWRkcmVzcyI6"],
)  # fmt: skip
def test_the_search_is_linear(part: str) -> None:
    """The test's own time limit ends a search that is not: these characters take half a second."""
    holds_secret(part * (300_000 // len(part)))
