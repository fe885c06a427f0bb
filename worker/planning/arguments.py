"""Passthrough arguments, by the rule of NVIDIA's step: a flag sets the config field of the same name."""

from collections.abc import Iterator, Sequence

from trainer.config.training_config import TrainingConfig
from worker.field_errors import pointer, suggestion
from worker.planning.request_guards import rejection

Argument = tuple[str, str, str]


def arguments(args: Sequence[str]) -> Iterator[Argument]:
    """Yield each argument as (pointer into the request, field name, text of its value).

    `--seq-length 8192` and `--seq-length=8192` are equal. Raises InvalidSpec for an unknown argument.
    """
    index = 0
    while index < len(args):
        where = pointer(["args", index])
        flag, equals, value = args[index].partition("=")
        name = _field(where, flag)
        if not equals:
            index += 1
            value = _next(where, flag, args[index : index + 1])
        yield where, name, value
        index += 1


def _field(where: str, flag: str) -> str:
    name = flag.removeprefix("--").replace("-", "_")
    fields = TrainingConfig.model_fields
    if not flag.startswith("--") or name not in fields:
        near = suggestion(name, fields) if flag.startswith("--") else "A flag looks like --seq-length 8192."
        hint = f"{near} Keys of sections are overrides: train.train_iters=3."
        # A text that is no flag is not quoted: it may be a secret.
        shown = repr(flag[:100]) if flag.startswith("--") else "this text"
        raise rejection(where, "unknown_argument", f"No config field matches {shown}.", hint)
    if isinstance(fields[name].default_factory, type):
        hint = f"Set one of its keys in overrides: {name}.KEY=VALUE."
        raise rejection(where, "unknown_argument", f"{name} is a section, and a flag cannot set it.", hint)
    return name


def _next(where: str, flag: str, following: Sequence[str]) -> str:
    if not following or following[0].startswith("--"):
        raise rejection(where, "unknown_argument", f"{flag} needs a value.", f"Write {flag} VALUE.")
    return following[0]
