"""A TrainingConfig as Megatron-Bridge's ConfigContainer: the recipe's, then what the config says on top."""

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
    """The ConfigContainer of a run. Raises MissingPackedData."""
    recipe = recipe_of(config)
    container = _begin(recipe, config)
    _lengths(container, config)
    _data(container, config)
    _peft(container, config)
    _base(container, config)
    values = given(config, recipe)
    _set_all(container, values)
    fallbacks.apply_fallbacks(container.model, values)
    _suit_context_parallelism(container)
    _schedule(container.scheduler, container.optimizer, values)
    _resume(container.checkpoint)
    return container


# -- what there is to begin from -------------------------------------------------------------------


def _begin(recipe: Recipe, config: TrainingConfig) -> Any:
    if recipe.name in GENERIC:
        container = recipes.generic(_provider(config), on_cpu=config.device == "cpu")
        container.tokenizer.tokenizer_model = config.hf_model_path
        return container
    taken = {key: value for key, value in config.recipe.values().items() if key in recipe.parameters}
    return recipes.named(recipe.name, taken)


def _provider(config: TrainingConfig) -> Any:
    """The model as its Hugging Face config describes it; the weights come later, from the checkpoint."""
    from megatron.bridge import AutoBridge

    return AutoBridge.from_hf_pretrained(config.hf_model_path).to_megatron_provider(load_weights=False)


def bare(name: str) -> Any:
    """What a recipe returns before any config has touched it."""
    if name in GENERIC:
        return recipes.generic(GENERIC[name](), on_cpu=False)
    return recipes.named(name, {})


def parameters(name: str) -> list[str]:
    """What a config may pass to a recipe. Whether adapters are tuned is `peft`'s to say."""
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


# Recipes of models that have none in Bridge, by the kind of their provider.
GENERIC: dict[str, Callable[[], Any]] = {"gpt": _gpt, "mla": _mla, "hybrid": _hybrid}


# -- the seed's own keys ---------------------------------------------------------------------------


def _lengths(container: Any, config: TrainingConfig) -> None:
    """One length for model, dataset and packing: Bridge asserts that they agree."""
    container.model.seq_length = container.dataset.seq_length = config.seq_length
    container.dataset.offline_packing_specs.packed_sequence_size = config.seq_length


def _data(container: Any, config: TrainingConfig) -> None:
    shards = find_shards(Path(config.dataset.nano3_packed_sft_dir or ""))
    dataset, specs = container.dataset, container.dataset.offline_packing_specs
    dataset.dataset_root = str(shards.directories[-1])
    specs.packed_train_data_path = str(shards.source)
    specs.packed_val_data_path = str(shards.valid[0].parent) if shards.valid else None
    # Unnamed, Bridge makes a directory for it among the data, which may be read-only.
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


def _suit_context_parallelism(container: Any) -> None:
    """What Bridge asks for: each sequence is cut into two pieces a rank, and each token counts the same."""
    ranks, specs = container.model.context_parallel_size, container.dataset.offline_packing_specs
    if ranks == 1:
        return
    if specs.pad_seq_to_mult in (None, 1):
        specs.pad_seq_to_mult = 2 * ranks
    container.model.calculate_per_token_loss = True
    container.ddp.average_in_collective = False


def _schedule(scheduler: Any, optimizer: Any, values: Mapping[str, Any]) -> None:
    """What a recipe's schedule has of its own run gives way to what the config says of this one.

    The decay of weights is the scheduler's to set at each step, whatever the optimizer holds; the learning
    rate decays over all iterations, unless somebody says for how long.
    """
    for name in ("start_weight_decay", "end_weight_decay"):
        if getattr(scheduler, name) is None or (
            "optimizer.weight_decay" in values and f"scheduler.{name}" not in values
        ):
            setattr(scheduler, name, optimizer.weight_decay)
    is_other_length = not values.keys().isdisjoint(("train.train_iters", "train.num_epochs"))
    if is_other_length and "scheduler.lr_decay_iters" not in values:
        scheduler.lr_decay_iters = None


def _resume(checkpoint: Any) -> None:
    """Go on from the newest complete checkpoint of an earlier attempt, whatever else is named.

    Bridge's own tracker would name the newest, whole or not.
    """
    if checkpoint.save is None:
        return
    latest = latest_complete(Path(checkpoint.save))
    if latest is not None:
        checkpoint.load, checkpoint.ckpt_step = checkpoint.save, iteration_of(latest)


# -- single values ---------------------------------------------------------------------------------


def _set_all(container: Any, values: Mapping[str, Any]) -> None:
    """Set dotted keys; sections that are None are made of what is said about them."""
    for name in ("comm_overlap", "ft", "straggler", "nvrx_straggler", "inprocess_restart", "tensor_inspect"):
        inside = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}
        if inside and getattr(container, name) is None:
            setattr(container, name, _kind_of(container, name)(**inside))
    if any(key.startswith("mixed_precision.") for key in values):
        container.mixed_precision = _precision(values.get("mixed_precision") or container.mixed_precision)
    for key, value in values.items():
        _set(container, key, value)


def _kind_of(target: Any, name: str) -> Any:
    """The dataclass that a field may hold."""
    kinds = typing.get_args(typing.get_type_hints(type(target))[name])
    return next(kind for kind in kinds if dataclasses.is_dataclass(kind))


def _precision(current: Any) -> Any:
    """Single values are set on an object; a recipe may only have its name."""
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
            inner = _kind_of(target, name)()
            setattr(target, name, inner)
        target = inner
    setattr(target, last, _typed(target, last, value))


def _typed(target: Any, name: str, value: Any) -> Any:
    """The member of an enum that a config names, also where a recipe has put a mere name."""
    if not isinstance(value, str):
        return value
    hint = typing.get_type_hints(type(target)).get(name)
    for kind in (type(getattr(target, name)), hint, *typing.get_args(hint)):
        if isinstance(kind, type) and issubclass(kind, enum.Enum) and value in kind.__members__:
            return kind[value]
    return value
