"""Configs for NVIDIA's current manifest of sft/megatron_bridge, in the keys of this service. Pure.

The manifest in the seed is older; its keys are those of TrainingConfig. docs/seed.md lists both.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from trainer.config.section_checks import SectionFault

SPECS = "dataset.packed_sequence_specs"

# Key of the current manifest -> key here. `.*` stands for the other keys of a section.
KEYS = {
    "recipe.peft": "peft",
    "recipe.seq_length": "seq_length",
    "peft.type": "peft",
    "peft.*": "lora.*",
    "checkpoint.pretrained_checkpoint": "checkpoint_megatron",
    f"{SPECS}.packed_train_data_path": "dataset.nano3_packed_sft_dir",
    f"{SPECS}.packed_val_data_path": "dataset.packed_val_data_path",
    f"{SPECS}.*": "dataset.offline_packing_specs.*",
}

# Keys whose value must equal seq_length, which then stands for all of them.
LENGTH = "seq_length"
"""The key that takes the place of LENGTHS."""
LENGTHS = ("dataset.seq_length", "dataset.offline_packing_specs.packed_sequence_size", "model.seq_length")

ABSENT = object()


@dataclass(frozen=True)
class Spelling:
    """A value of a config that has several keys."""

    own: str
    """Its dotted key here."""
    written: str
    """The dotted key that the config has."""
    value: Any
    moved: bool = True
    """Whether the key was removed from the config. Then the caller sets the value at its key here."""
    implied: bool = False
    """Whether nobody wrote the value. It yields to any that is written."""


def translated(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Spelling]]:
    """Return a config without keys of the current manifest, and all values that have several keys."""
    rest = deepcopy(dict(values))
    moved = [*_adapter(rest), *(one for old, own in KEYS.items() for one in _moved(rest, old, own))]
    kept = [
        Spelling(key, key, value, moved=False)
        for own in dict.fromkeys(KEYS.values())
        for key, value in _at(rest, own)
    ]
    return rest, [*kept, *moved]


def translated_key(key: str, value: Any) -> tuple[Any, list[Spelling]]:
    """Return what is left of the value of a dotted key (else ABSENT), and the values with several keys."""
    nested = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    rest, spellings = translated(nested)
    return value_at(rest, key), spellings


def _adapter(values: dict[str, Any]) -> Iterator[Spelling]:
    """A block `peft` means LoRA, even if it names no type."""
    block = values.get("peft")
    if isinstance(block, dict) and _names(block) and "type" not in block:
        yield Spelling("peft", "peft", "lora", implied=True)


def _moved(values: dict[str, Any], old: str, own: str) -> Iterator[Spelling]:
    for key, value in list(_at(values, old)):
        remove(values, key)
        yield Spelling(own.replace("*", key.rpartition(".")[2]), key, value)


def _at(values: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values: of one key, or of all keys of a section (`section.*`)."""
    section, _, name = key.rpartition(".")
    parent = value_at(values, section) if section else values
    if isinstance(parent, Mapping):
        names = _names(parent) if name == "*" else {name} & parent.keys()
        yield from ((f"{section}.{one}" if section else one, parent[one]) for one in names)


def _names(section: Mapping[Any, Any]) -> list[str]:
    """Return the names in a section; none if one is no part of a dotted key: the validation rejects those."""
    names = list(section)
    return names if all(isinstance(name, str) and name and "." not in name for name in names) else []


def value_at(values: Any, key: str) -> Any:
    """Return the value of a dotted key; ABSENT if there is none."""
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return ABSENT
        values = values[part]
    return values


def place(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key. A parent that is not an object is left to the validation, which rejects it."""
    *parents, last = key.split(".")
    section: Any = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            return
    section[last] = value


def remove(values: dict[str, Any], key: str) -> None:
    """Remove a dotted key, and the sections that are empty without it."""
    first, _, inside = key.partition(".")
    if inside:
        remove(values[first], inside)
    if not inside or not values[first]:
        del values[first]


# -- after all keys are set ------------------------------------------------------------------------


def settle_lengths(values: dict[str, Any]) -> str | None:
    """Replace equal lengths by seq_length. Return the key that seq_length was taken from, if any.

    Different lengths stay: trainer.preflight.lengths finds them.
    """
    given = {key: value for key in LENGTHS if (value := value_at(values, key)) is not ABSENT}
    source = None if LENGTH in values or not given else next(iter(given))
    if source:
        values[LENGTH] = given[source]
    length = values.get(LENGTH)
    if all(type(value) is type(length) and value == length for value in given.values()):
        for key in given:
            remove(values, key)
    return source


def settle_switches(values: dict[str, Any]) -> Iterator[SectionFault]:
    """Remove keys that have one meaning here; yield a fault for each other value."""
    if value_at(values, "recipe.packed_sequence") is not ABSENT:
        yield from _packed(values)
    if "load_hf_weights" in values:
        yield from _weights(values)
    if "run" in values:
        detail = "run has settings of NVIDIA's launcher. Here the cluster's profile has them."
        hint = (
            "Remove run, and select a profile with `cluster`: its operator sets container image, mounts and "
            "environment there. `resources` sets nodes, GPUs and time."
        )
        yield SectionFault("/run", "not_settable", detail, hint)


def _packed(values: dict[str, Any]) -> Iterator[SectionFault]:
    if value_at(values, "recipe.packed_sequence") is not True:
        detail = "recipe.packed_sequence must be true: this service trains packed data only."
        hint = "Remove it, and pack the data."
        yield SectionFault("/recipe/packed_sequence", "wrong_value", detail, hint)
    remove(values, "recipe.packed_sequence")


def _weights(values: dict[str, Any]) -> Iterator[SectionFault]:
    """Without weights from Hugging Face there must be a checkpoint: no run begins with random weights."""
    wanted = values.pop("load_hf_weights")
    if not (wanted is True or (wanted is False and values.get("checkpoint_megatron"))):
        detail = "load_hf_weights must be true where no checkpoint is named: training needs base weights."
        hint = "Remove it, or set inputs.checkpoint_megatron."
        yield SectionFault("/load_hf_weights", "wrong_value", detail, hint)
