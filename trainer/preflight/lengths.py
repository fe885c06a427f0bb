"""Check the sequence length: the model must offer it, and all keys for it must have the same value."""

from collections.abc import Iterator

from trainer.config.current_manifest import LENGTHS
from trainer.config.effective import Effective
from trainer.config.models import LONGEST_LISTED_TOKENS, known_model
from trainer.preflight.finding import Finding, finding, suggest


def check(effective: Effective) -> Iterator[Finding]:
    length = effective.config.seq_length
    equal = ["seq_length", *(key for key in LENGTHS if effective.given.get(key) == length)]
    names = f"{' and '.join(equal)} {'is' if len(equal) == 1 else 'are'}"
    for key in LENGTHS:
        other = effective.given.get(key, length)
        if other != length:
            yield finding(
                "error", "seq_length_mismatch", effective.pointer(key),
                f"{key} is {other!r}, and {names} {length}: they must be equal.",
                "Set only seq_length; it applies to model, dataset and packing.",
                change=suggest(key, other, length),
            )  # fmt: skip
    yield from _offered(effective, length)


def _offered(effective: Effective, length: int) -> Iterator[Finding]:
    """Check the length against the list of the seed's models. Above the list, strategies.py gives advice."""
    model = known_model(effective.config.hf_model_path)
    if (
        model is None
        or model.seq_lengths is None
        or length > LONGEST_LISTED_TOKENS
        or length in model.seq_lengths
    ):
        return
    choices = ", ".join(str(choice) for choice in model.seq_lengths)
    nearest = min(model.seq_lengths, key=lambda choice: abs(choice - length))
    yield finding(
        "error", "seq_length_not_offered", "/seq_length",
        f"{model.id} is trained at {choices} tokens, not at {length}.",
        "Choose one of these lengths, and pack the data to it.",
        change=suggest("seq_length", length, nearest),
    )  # fmt: skip
