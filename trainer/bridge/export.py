"""Export a checkpoint as a Hugging Face directory: on the CPU, in one process, even if there are GPUs."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trainer.bridge import checkpoint_guard, compat, cpu_patches, fallbacks
from trainer.bridge.hub import directory_of
from trainer.bridge.recipes import plain_model
from trainer.checkpoints import (
    HF_INDEX,
    Incomplete,
    export_directory,
    files_of,
    iteration_of,
    latest_complete,
    missing_export_files,
)
from trainer.config.training_config import TrainingConfig
from trainer.event_writer import EventWriter
from trainer.events import CheckpointSaved, Finished, Started


def export(config: TrainingConfig, events: EventWriter) -> None:
    """Write the directory and the last event. Errors are raised.

    The directory appears atomically and complete. Files of an earlier attempt are removed.
    """
    assert config.export is not None
    checkpoint = Path(config.export.checkpoint)
    iteration = iteration_of(checkpoint)
    target = export_directory(Path(str(config.checkpoint["save"])), iteration)
    events.write(Started(start_step=iteration, total_steps=iteration, world_size=1))
    scratch = _make_scratch(target)
    _convert(config, checkpoint, scratch)
    _reject_incomplete(scratch)
    scratch.rename(target)
    _report(events, target, iteration)
    events.end(Finished(step=iteration, iteration=iteration))


def _make_scratch(target: Path) -> Path:
    """Remove the target, and create an empty scratch directory beside it."""
    scratch = target.with_name(f".writing-{target.name}")
    for leftover in (target, scratch):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch


def _reject_incomplete(directory: Path) -> None:
    files, index = files_of(directory), directory / HF_INDEX
    missing = missing_export_files(
        (file.path for file in files), index.read_bytes() if index.exists() else None
    )
    if missing:
        raise Incomplete(f"The export is missing {', '.join(sorted(missing))}.")


def _report(events: EventWriter, target: Path, iteration: int) -> None:
    files = files_of(target)
    saved = CheckpointSaved(
        iteration=iteration,
        path=str(target),
        format="huggingface",
        bytes=sum(file.bytes for file in files),
        files=files,
    )
    events.write(saved)


# -- with torch ------------------------------------------------------------------------------------


def _convert(config: TrainingConfig, checkpoint: Path, directory: Path) -> None:
    checkpoint_guard.guard_pickles()
    compat.install()
    cpu_patches.prepare()
    import torch
    from megatron.bridge.training.model_load_save import temporary_distributed_context
    from megatron.bridge.training.utils.checkpoint_utils import read_run_config

    checkpoint_guard.guard_code()
    if not torch.cuda.is_available():
        cpu_patches.install()
    run = read_run_config(str(checkpoint / "run_config.yaml"))
    base = _base_directory(config, run)
    bridge = _bridge(base)
    # One process with gloo: Bridge then keeps everything on the CPU.
    with temporary_distributed_context(backend="gloo"):
        adapter = _adapter(run)
        model = _with_adapter(config, bridge, checkpoint, adapter) if adapter else _load(bridge, checkpoint)
        _save(bridge, model, base, directory)


def _base_directory(config: TrainingConfig, run: dict[str, Any]) -> str:
    """Directory of the base model, in the revision of the training run."""
    tokenizer = run.get("tokenizer") or {}
    pinned = {name: tokenizer.get(name) for name in ("tokenizer_model", "hf_tokenizer_kwargs")}
    return directory_of(str(config.hf_model_path), SimpleNamespace(**pinned))


def _bridge(base: str) -> Any:
    """Bridge for the base model. If a Megatron checkpoint provided the weights, only the config is needed."""
    from megatron.bridge import AutoBridge
    from transformers import AutoConfig

    if any(Path(base).glob("*.safetensors")):
        return AutoBridge.from_hf_pretrained(base)
    # Of a directory that was inspected, or a hub id whose config alone is read: no code of it runs.
    return AutoBridge.from_hf_config(AutoConfig.from_pretrained(base))  # nosec B615


def _load(bridge: Any, checkpoint: Path | None) -> Any:
    """Load the model of a checkpoint. Gradient fusion is off: its kernel may not be installed here."""
    return bridge.load_megatron_model(checkpoint, mp_overrides={"gradient_accumulation_fusion": False})


def _save(bridge: Any, model: list[Any], base: str, directory: Path) -> None:
    """Save the model with merged adapters, and the base's tokenizer, chat template and generation config."""
    config = getattr(bridge.hf_pretrained, "config", bridge.hf_pretrained)
    # The precision of the written weights, which may differ from that of the base.
    config.dtype = next(model[0].parameters()).dtype
    bridge.save_hf_pretrained(model, directory, show_progress=False, source_path=base)


# -- adapters --------------------------------------------------------------------------------------

# Settings of a run's adapters that determine their shape and scale.
ADAPTER = (
    "target_modules", "exclude_modules", "dim", "alpha", "dropout", "dropout_position", "normalize_moe_lora",
    "share_expert_adapters",
)  # fmt: skip


def _adapter(run: dict[str, Any]) -> Any:
    """LoRA with the settings of the run; None for full fine-tuning."""
    from megatron.bridge.peft.lora import LoRA

    settings = run.get("peft")
    return LoRA(**{key: settings[key] for key in ADAPTER if key in settings}) if settings else None


def _with_adapter(config: TrainingConfig, bridge: Any, checkpoint: Path, adapter: Any) -> list[Any]:
    """The base model with the adapters of a checkpoint."""
    from megatron.core.utils import unwrap_model

    model = unwrap_model(_base(config, bridge))
    # A loaded checkpoint restores the setting of its run, which would create adapters on a GPU.
    model[0].config.use_cpu_initialization = True
    adapter(model, training=False)
    _load_adapter(model[0], checkpoint, adapter)
    return list(model)


def _base(config: TrainingConfig, bridge: Any) -> Any:
    """The model that the run began from: its Megatron checkpoint, else the weights of hf_model_path."""
    import torch

    if config.checkpoint_megatron:
        return _load(bridge, latest_complete(Path(config.checkpoint_megatron)))
    provider = bridge.to_megatron_provider()
    if not torch.cuda.is_available():
        plain_model(provider)
    fallbacks.apply_fallbacks(provider, ())
    provider.finalize()
    return provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)


def _load_adapter(model: Any, checkpoint: Path, adapter: Any) -> None:
    """Load all weights of the adapters. megatron-core raises if the checkpoint has missing weights."""
    from megatron.bridge.training.checkpointing import (
        _generate_model_state_dict,
        apply_peft_adapter_filter_to_state_dict,
    )
    from megatron.core import dist_checkpointing

    wanted = apply_peft_adapter_filter_to_state_dict(_generate_model_state_dict([model], {}), adapter)
    loaded = dist_checkpointing.load(wanted, str(checkpoint))["model"]
    model.load_state_dict(loaded, strict=False)  # the base's weights are already loaded
