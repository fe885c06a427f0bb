"""Reject base models with missing weights, which Bridge would replace by random values."""

import logging
import re
from typing import Any

# Nemotron's multi-token-prediction layers may be new: training them from random values is intended.
MAY_BE_NEW = "mtp."
MISSING = re.compile(
    r"Can't find (?:the following HF parameters in hf_keys: )?(?P<names>.+?)(?: in hf_keys)?$"
)


class MissingWeights(RuntimeError):
    """The base model has no weights for a part of the trained model."""


def reject_missing_weights() -> None:
    """Make Bridge raise MissingWeights where version 0.6.2 only warns, and hides the warning by default."""
    from megatron.bridge.models.conversion import model_bridge

    model_bridge.logger = _RejectingLogger(model_bridge.logger)


class _RejectingLogger(logging.LoggerAdapter[logging.Logger]):
    """Bridge's logger. Sees every warning, whatever levels and filters the config sets."""

    def warning(self, msg: object, *args: object, **more: Any) -> None:
        _reject(str(msg))
        super().warning(msg, *args, **more)


def _reject(warning: str) -> None:
    missing = MISSING.search(warning)
    if missing and MAY_BE_NEW not in missing["names"]:
        raise MissingWeights(
            f"The base model's files have no weights {missing['names']}. They may have another name in the "
            "files: transformers 5 renames some weights when it saves a model. Use the publisher's files."
        )
