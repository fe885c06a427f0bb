"""The weights that a run begins with, as Bridge takes them from a Hugging Face directory."""

import logging

LOGGER = "megatron.bridge.models.conversion.model_bridge"
# New layers to predict more tokens are trained from random values on purpose.
MAY_BE_NEW = "mtp."


class Lacking(RuntimeError):
    """A base model has no weights for a part of what is to be trained."""


def refuse_gaps() -> None:
    """Raise Lacking where Bridge 0.6.2 would leave random values, with a warning that its default hides."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.WARNING)
    logger.addFilter(_refuse)


def _refuse(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    if "Can't find" in said and "hf_keys" in said and MAY_BE_NEW not in said:
        names = said.partition("Can't find ")[2].removesuffix(" in hf_keys")
        raise Lacking(
            f"The base model has no weights {names}: they would be trained from random values. "
            "transformers 5 saves some under other names than their publisher: take the publisher's files."
        )
    return True
