"""The weights that a run begins with, as Bridge takes them from a Hugging Face directory."""

import logging
import re
from typing import Any

# Nemotron's layers that predict more tokens may be new ones, trained from random values on purpose.
MAY_BE_NEW = "mtp."
GAP = re.compile(r"Can't find (?:the following HF parameters in hf_keys: )?(?P<names>.+?)(?: in hf_keys)?$")


class MissingWeights(RuntimeError):
    """A base model has no weights for a part of what is to be trained."""


def reject_missing_weights() -> None:
    """Raise MissingWeights where Bridge 0.6.2 would train random values and hide its warning by default."""
    from megatron.bridge.models.conversion import model_bridge

    model_bridge.logger = _Refusing(model_bridge.logger)


class _Refusing(logging.LoggerAdapter[logging.Logger]):
    """Bridge's logger, whatever levels and filters a config gives it."""

    def warning(self, msg: object, *args: object, **more: Any) -> None:
        _refuse(str(msg))
        super().warning(msg, *args, **more)


def _refuse(said: str) -> None:
    gap = GAP.search(said)
    if gap and MAY_BE_NEW not in gap["names"]:
        raise MissingWeights(
            f"The base model's files have no weights {gap['names']}. They may have them under another name: "
            "transformers 5 renames some when it saves a model. Take the publisher's files."
        )
