"""Build Megatron-Bridge's ConfigContainer from a TrainingConfig: the recipe's values, then the config's."""

import dataclasses
import enum
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.bridge import fallbacks, recipes
from trainer.bridge.hub import directory_of
from trainer.checkpoints import iteration_of, latest_complete
from trainer.config.bridge_schema import Recipe
from trainer.config.effective import given, recipe_of
from trainer.config.training_config import TrainingConfig
from trainer.dataset import find_shards


def build(config: TrainingConfig) -> Any:
    """Build the ConfigContainer of a run. Raises MissingPackedData."""
    recipe = recipe_of(config)
    container = _recipe_container(recipe, config)
    _lengths(container, config)
    _data(container, config)
    _peft(container, config)
    _base(container, config)
    values = given(config, recipe)
    _set_all(container, values)
    fallbacks.apply_fallbacks(container.model, values)
    _apply_context_parallelism(container)
    _schedule(container.scheduler, container.optimizer, values)
    _resume(container.checkpoint)
    return container


# -- the recipe ------------------------------------------------------------------------------------


def _recipe_container(recipe: Recipe, config: TrainingConfig) -> Any:
    if recipe.name in GENERIC:
        container = recipes.generic(_provider(config), on_cpu=config.device == "cpu")
        container.tokenizer.tokenizer_model = config.hf_model_path
        return container
    arguments = {key: value for key, value in config.recipe.values().items() if key in recipe.parameters}
    return recipes.named(recipe.name, arguments)


def _provider(config: TrainingConfig) -> Any:
    """The model of a Hugging Face config. Its weights are loaded later, from the checkpoint."""
    from megatron.bridge import AutoBridge

    return AutoBridge.from_hf_pretrained(config.hf_model_path).to_megatron_provider(load_weights=False)


def bare(name: str) -> Any:
    """The container that a recipe returns, before values of a config are set."""
    if name in GENERIC:
        return recipes.generic(GENERIC[name](), on_cpu=False)
    return recipes.named(name, {})


def parameters(name: str) -> list[str]:
    """Parameters that a config may pass to a recipe, without `peft_scheme`, which `peft` replaces."""
    if name in GENERIC:
        return []
    return [parameter for parameter in recipes.parameters(name) if parameter != "peft_scheme"]


def _gpt() -> Any:
    from megatron.bridge.models.gpt_provider import GPTModelProvider

    return GPTModelProvider()


def _mla() -> Any:
    from megatron.bridge.models.mla_provider import MLAModelProvider

    return MLAModelProvider()


def _hybrid() -> Any:
    from megatron.bridge.models.hybrid.hybrid_provider import HybridModelProvider

    return HybridModelProvider()


# Recipes for models that have none in Bridge, by the kind of their provider.
GENERIC: dict[str, Callable[[], Any]] = {"gpt": _gpt, "mla": _mla, "hybrid": _hybrid}


# -- keys of the seed ------------------------------------------------------------------------------


def _lengths(container: Any, config: TrainingConfig) -> None:
    """Set the length of model, dataset and packing: Bridge asserts that they are equal."""
    container.model.seq_length = container.dataset.seq_length = config.seq_length
    container.dataset.offline_packing_specs.packed_sequence_size = config.seq_length


def _data(container: Any, config: TrainingConfig) -> None:
    validation = config.dataset.packed_val_data_path
    shards = find_shards(
        Path(config.dataset.nano3_packed_sft_dir or ""), Path(validation) if validation else None
    )
    dataset, specs = container.dataset, container.dataset.offline_packing_specs
    dataset.dataset_root = str(shards.directories[-1])
    specs.packed_train_data_path = str(shards.source)
    specs.packed_val_data_path = str(shards.valid_source) if shards.valid_source else None
    # Without a path, Bridge creates a directory among the data, which may be read-only.
    specs.packed_metadata_path = specs.packed_metadata_path or str(shards.directories[-1] / "metadata.jsonl")
    dataset.do_validation = bool(shards.valid)


def _base(container: Any, config: TrainingConfig) -> None:
    base = config.checkpoint_megatron
    if base is None and config.hf_model_path is not None:
        base = directory_of(config.hf_model_path, container.tokenizer)
    container.checkpoint.pretrained_checkpoint = base


def _peft(container: Any, config: TrainingConfig) -> None:
    if config.peft is None:
        container.peft = None
    elif container.peft is None:
        from megatron.bridge.peft.lora import LoRA

        container.peft = LoRA()


def _apply_context_parallelism(container: Any) -> None:
    """Set what Bridge needs: sequences that split into two pieces per rank, and a loss per token."""
    ranks, specs = container.model.context_parallel_size, container.dataset.offline_packing_specs
    if ranks == 1:
        return
    if specs.pad_seq_to_mult in (None, 1):
        specs.pad_seq_to_mult = 2 * ranks
    container.model.calculate_per_token_loss = True
    container.ddp.average_in_collective = False


def _schedule(scheduler: Any, optimizer: Any, values: Mapping[str, Any]) -> None:
    """Replace values that a recipe's schedule has for its own run by values for this run.

    The scheduler sets the weight decay at each step and overrides the optimizer's value. The learning rate
    decays over all iterations unless the config sets another number.
    """
    for name in ("start_weight_decay", "end_weight_decay"):
        if getattr(scheduler, name) is None or (
            "optimizer.weight_decay" in values and f"scheduler.{name}" not in values
        ):
            setattr(scheduler, name, optimizer.weight_decay)
    has_own_length = not values.keys().isdisjoint(("train.train_iters", "train.num_epochs"))
    if has_own_length and "scheduler.lr_decay_iters" not in values:
        scheduler.lr_decay_iters = None


def _resume(checkpoint: Any) -> None:
    """Resume from the newest complete checkpoint of an earlier attempt. It overrides any other checkpoint.

    Bridge's tracker file names the newest checkpoint even if it is incomplete.
    """
    if checkpoint.save is None:
        return
    latest = latest_complete(Path(checkpoint.save))
    if latest is not None:
        checkpoint.load, checkpoint.ckpt_step = checkpoint.save, iteration_of(latest)


# -- single values ---------------------------------------------------------------------------------


def _set_all(container: Any, values: Mapping[str, Any]) -> None:
    """Set dotted keys. A section that is None is created from the values that the config has for it."""
    for name in ("comm_overlap", "ft", "straggler", "nvrx_straggler", "inprocess_restart", "tensor_inspect"):
        inside = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}
        if inside and getattr(container, name) is None:
            setattr(container, name, _dataclass_of(container, name)(**inside))
    if any(key.startswith("mixed_precision.") for key in values):
        container.mixed_precision = _precision(values.get("mixed_precision") or container.mixed_precision)
    for key, value in values.items():
        _set(container, key, value)


def _dataclass_of(target: Any, name: str) -> Any:
    """The dataclass that a field can hold."""
    kinds = typing.get_args(typing.get_type_hints(type(target))[name])
    return next(kind for kind in kinds if dataclasses.is_dataclass(kind))


def _precision(current: Any) -> Any:
    """Return the precision config as an object, to set single values. A recipe may only have its name."""
    from megatron.bridge.training.mixed_precision import get_mixed_precision_config

    return (
        get_mixed_precision_config(current or "bf16_mixed")
        if not dataclasses.is_dataclass(current)
        else current
    )


def _set(container: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    target = container
    for name in parents:
        inner = getattr(target, "peft" if target is container and name == "lora" else name)
        if inner is None:
            inner = _dataclass_of(target, name)()
            setattr(target, name, inner)
        target = inner
    setattr(target, last, _typed(target, last, value))


def _typed(target: Any, name: str, value: Any) -> Any:
    """Convert a name to the enum member of the field, also if the recipe has set a string there."""
    if not isinstance(value, str):
        return value
    hint = typing.get_type_hints(type(target)).get(name)
    for kind in (type(getattr(target, name)), hint, *typing.get_args(hint)):
        if isinstance(kind, type) and issubclass(kind, enum.Enum) and value in kind.__members__:
            return kind[value]
    return value
