"""Check the sections of a config against bridge.json: names, types and bounds. No torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from itertools import islice
from typing import Any

from trainer.config.bridge_schema import NEEDED, SECRET, Recipe, Schema, definitions, nested, precisions
from trainer.config.effective import SECTIONS, recipes_of, section_values, target_recipe
from trainer.config.training_config import MAX_PARALLEL, RecipeConfig, TrainingConfig, walk


@dataclass(frozen=True)
class SectionFault:
    """An invalid key or value in a section."""

    pointer: str
    """JSON pointer into the training config."""
    code: str
    detail: str
    hint: str | None


# Finding the nearest name is slow, and nobody reads more faults at once.
MAX_FAULTS = 20


def section_faults(config: TrainingConfig, *, files: bool = True) -> list[SectionFault]:
    """Return the first faults of a config's sections, including `recipe.*`; at most MAX_FAULTS.

    files: whether this machine can read the files that the config names. If the recipe depends on a model
        that is unreadable here, the config need only be valid for one of the possible recipes.
    """
    if unsafe := [*islice(_interpolations(config), MAX_FAULTS), *_target(config)]:
        return unsafe
    found = (
        list(islice(_all_faults(config, recipe), MAX_FAULTS)) for recipe in recipes_of(config, files=files)
    )
    return min(found, key=len)


def _all_faults(config: TrainingConfig, recipe: Recipe) -> Iterator[SectionFault]:
    yield from _recipe_arguments(config, recipe)
    for name in SECTIONS:
        section = section_values(config, name)
        if isinstance(section, dict):
            yield from _section(name, section, recipe)
            yield from _incomplete(name, section, recipe)
    yield from _precision(config.mixed_precision)
    for key in {**OWN_KEYS, **AT_LEAST}:
        if (value := _value_at(config, key)) is not None:
            yield from (*_has_own_key(_pointer(key), key), *_bounds(_pointer(key), key, value))


def _interpolations(config: TrainingConfig) -> Iterator[SectionFault]:
    """Texts that OmegaConf, which Bridge writes and reads its configs with, would resolve."""
    for where, value in walk(config.model_dump(mode="json")):
        texts = (where, value) if isinstance(value, str) else (where,)
        if any("${" in text for text in texts):
            detail = "Interpolations (${...}) are not allowed in a config."
            yield SectionFault(where, "interpolation", detail, "Write the value itself.")


def _target(config: TrainingConfig) -> Iterator[SectionFault]:
    if config.recipe.target is None:
        return
    try:
        target_recipe(config.recipe.target, config.peft)
    except ValueError as error:
        detail = f"The recipe {config.recipe.target[:200]!r} {error}."
        yield SectionFault(
            "/recipe/_target_", "unknown_recipe", detail, "Omit it: the model determines the recipe."
        )


# -- recipe.* --------------------------------------------------------------------------------------


def _recipe_arguments(config: TrainingConfig, recipe: Recipe) -> Iterator[SectionFault]:
    for key, value in config.recipe.values().items():
        container_key = recipe.container_key(key)
        pointer = f"/recipe/{key}"
        if key in recipe.parameters:
            continue
        if container_key is None:
            yield _unknown(pointer, f"recipe.{key}", _dotted_keys(recipe, ("recipe", "model", "checkpoint")))
            continue
        section, _, name = container_key.partition(".")
        found = _section(section, {name: value}, recipe)
        yield from (SectionFault(pointer, one.code, one.detail, one.hint) for one in found)
        yield from _set_twice(config, key, value, container_key)
        yield from (*_has_own_key(pointer, container_key), *_bounds(pointer, container_key, value))


def _set_twice(config: TrainingConfig, key: str, value: Any, container_key: str) -> Iterator[SectionFault]:
    section, _, name = container_key.partition(".")
    other = section_values(config, section)
    if isinstance(other, dict) and name in other and other[name] != value:
        detail = f"recipe.{key} is {value!r}, and {container_key} is {other[name]!r}: both set one value."
        yield SectionFault(f"/recipe/{key}", "said_twice", detail, "Set only one of them.")


# -- one section -----------------------------------------------------------------------------------


def _section(name: str, values: Mapping[str, Any], recipe: Recipe) -> Iterator[SectionFault]:
    schema = {**recipe.schema(name), "$defs": definitions()}
    errors = _validator()(schema).iter_errors(values) if values else ()
    for error in errors:
        yield from _faults(name, error, recipe)


@cache
def _validator() -> Any:
    """JSON Schema validator, except that 8.0 is not an integer: it would reach `range` and fail there."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    checker = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    return extend(Draft202012Validator, type_checker=checker)  # type: ignore[no-untyped-call]


def _incomplete(name: str, values: Mapping[str, Any], recipe: Recipe) -> Iterator[SectionFault]:
    """Missing keys of a section that is None without the config."""
    if values and name in recipe.absent:
        for key in recipe.schema(name).get(NEEDED, []):
            if key not in values:
                yield SectionFault(
                    f"/{name}", "missing_key", f"{name} needs {name}.{key}.", f"Set {name}.{key}, too."
                )


def _faults(section: str, error: Any, recipe: Recipe) -> Iterator[SectionFault]:
    """Translate one violation of a schema into faults that people understand."""
    path = [section, *(str(part) for part in error.absolute_path)]
    pointer, key = "".join(f"/{part}" for part in path), ".".join(path)
    inside = [
        one
        for one in error.context or ()
        if one.absolute_path != error.absolute_path or one.validator != "type"
    ]
    if error.validator == "anyOf" and isinstance(error.instance, dict) and inside:
        for one in inside:
            yield from _faults(section, one, recipe)
    elif error.validator == "additionalProperties":
        for name in error.instance.keys() - error.schema["properties"].keys():
            yield _unknown(f"{pointer}/{name}", f"{key}.{name}", _dotted_keys(recipe, (*SECTIONS, "recipe")))
    elif error.validator == "not":
        what = "holds a secret" if error.schema.get("format") == SECRET else "is an object"
        yield SectionFault(
            pointer, "not_settable", f"{key} {what} that cannot be set in a request.", "Omit it."
        )
    else:
        detail = f"{key} must be {expected(error.schema)}, and is {str(error.instance)[:100]!r}."
        yield SectionFault(pointer, "wrong_value", detail, None)


def _unknown(pointer: str, key: str, known: list[str]) -> SectionFault:
    """Describe an unknown key, with the nearest: the same name in another section, else a similar name."""
    section, _, name = key.rpartition(".")
    elsewhere = [one for one in known if one.rpartition(".")[2] in (name, f"{section}_{name}")]
    here = get_close_matches(key, [one for one in known if one.startswith(f"{section}.")], n=1)
    aliases = [ALIASES[one] for one in (key, name) if one in ALIASES]
    nearest = aliases or elsewhere or here or get_close_matches(key, known, n=1, cutoff=0.75)
    hint = f"Did you mean {nearest[0]!r}?" if nearest else f"GET /v1/schema lists the keys of {section}."
    return SectionFault(pointer, "unknown_key", f"Megatron-Bridge has no {key}.", hint)


# Names from other tools, as a dotted key or as a name in any section -> key here.
ALIASES = {
    "lora.rank": "lora.dim", "lora.r": "lora.dim", "learning_rate": "optimizer.lr",
    "batch_size": "train.global_batch_size", "max_steps": "train.train_iters", "steps": "train.train_iters",
    "warmup_steps": "scheduler.lr_warmup_iters", "save_steps": "checkpoint.save_interval",
    "eval_steps": "validation.eval_interval", "max_seq_length": "seq_length",
    "gradient_checkpointing": "model.recompute_granularity",
}  # fmt: skip


def _dotted_keys(recipe: Recipe, sections: tuple[str, ...]) -> list[str]:
    """Dotted keys of these sections, with two levels of nesting."""
    return [key for name in sections for key in _keys(name, _schema_of(name, recipe))]


def _schema_of(name: str, recipe: Recipe) -> Schema:
    return recipe.schema(name) if name != "recipe" else recipe.schema("model")


def _keys(prefix: str, schema: Schema) -> Iterator[str]:
    for name, one in schema["properties"].items():
        if one.get("readOnly"):
            continue
        yield f"{prefix}.{name}"
        inner = nested(one)
        if inner is not None and inner is not schema:
            yield from (f"{prefix}.{name}.{key}" for key in inner["properties"])


TYPES = {
    "integer": "an integer", "number": "a number", "string": "text", "boolean": "true or false",
    "null": "null", "array": "a list", "object": "an object",
}  # fmt: skip


def expected(schema: Schema) -> str:
    """Describe the values that a schema accepts."""
    if "enum" in schema:
        return "one of " + ", ".join(str(choice) for choice in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(expected(one) for one in schema["anyOf"])
    if schema.get("type") == "array" and schema.get("items"):
        return f"a list, each item {expected(schema['items'])}"
    return TYPES.get(schema.get("type", "object"), "a value")


# -- checks beyond types ---------------------------------------------------------------------------

# Key of Bridge -> this project's own key that sets it.
OWN_KEYS = {
    "dataset.dataset_root": "dataset.nano3_packed_sft_dir",
    "dataset.hf_dataset": "dataset.nano3_packed_sft_dir",
    "dataset.offline_packing_specs.packed_train_data_path": "dataset.nano3_packed_sft_dir",
    "dataset.offline_packing_specs.packed_val_data_path": "dataset.nano3_packed_sft_dir",
    "checkpoint.pretrained_checkpoint": "checkpoint_megatron",
    "model.hf_model_id": "hf_model_path",
}  # fmt: skip


def _has_own_key(pointer: str, key: str) -> Iterator[SectionFault]:
    if own := OWN_KEYS.get(key):
        yield SectionFault(pointer, "use_own_key", f"{key} is set through {own}.", f"Set {own} instead.")


def _precision(name: Any) -> Iterator[SectionFault]:
    if isinstance(name, str) and name not in precisions():
        nearest = get_close_matches(name, precisions(), n=1)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Available: {', '.join(precisions())}."
        detail = f"Megatron-Bridge has no precision {name[:100]!r}."
        yield SectionFault("/mixed_precision", "wrong_value", detail, hint)


PARALLEL_SIZES = tuple(
    f"model.{name}" for name in RecipeConfig.model_fields if name.endswith("parallel_size")
)
AT_LEAST = {
    "train.train_iters": 1, "train.global_batch_size": 1, "train.micro_batch_size": 1,
    "validation.eval_interval": 1, "validation.eval_iters": 0, "checkpoint.save_interval": 1,
    "logger.log_interval": 1, "optimizer.lr": 0, "optimizer.min_lr": 0, "lora.dim": 1,
    "scheduler.lr_warmup_iters": 0, "dataset.num_workers": 0,
    **dict.fromkeys(PARALLEL_SIZES, 1),
}  # fmt: skip
AT_MOST = dict.fromkeys(PARALLEL_SIZES, MAX_PARALLEL)


def _bounds(pointer: str, key: str, value: Any) -> Iterator[SectionFault]:
    if not isinstance(value, int | float):
        return
    least, most = AT_LEAST.get(key, value), AT_MOST.get(key, value)
    if not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most}"
        yield SectionFault(pointer, "out_of_range", f"{key} must be {bound}, and is {value}.", None)


def _pointer(key: str) -> str:
    return "/" + key.replace(".", "/")


def _value_at(config: TrainingConfig, key: str) -> Any:
    section, *parts = key.split(".")
    value: Any = section_values(config, section)
    for part in parts:
        value = value.get(part) if isinstance(value, dict) else None
    return value
