"""A trained checkpoint as a Hugging Face directory: on the CPU, by one process, also where GPUs are."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trainer.bridge import compat, cpu_patches, fallbacks
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
    """Write the directory, and the last event. Whatever goes wrong is raised.

    It appears whole, under its own name; what an earlier attempt left is removed.
    """
    assert config.export is not None
    checkpoint = Path(config.export.checkpoint)
    iteration = iteration_of(checkpoint)
    target = export_directory(Path(str(config.checkpoint["save"])), iteration)
    events.write(Started(start_step=iteration, total_steps=iteration, world_size=1))
    scratch = _emptied(target)
    _convert(config, checkpoint, scratch)
    _refuse_incomplete(scratch)
    scratch.rename(target)
    _report(events, target, iteration)
    events.end(Finished(step=iteration, iteration=iteration))


def _emptied(target: Path) -> Path:
    """A directory to write into, beside the target, which is removed."""
    scratch = target.with_name(f".writing-{target.name}")
    for leftover in (target, scratch):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch


def _refuse_incomplete(directory: Path) -> None:
    files, index = files_of(directory), directory / HF_INDEX
    missing = missing_export_files(
        (file.path for file in files), index.read_bytes() if index.exists() else None
    )
    if missing:
        raise Incomplete(f"The export lacks {', '.join(sorted(missing))}.")


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
    compat.install()
    cpu_patches.prepare()
    import torch
    from megatron.bridge.training.model_load_save import temporary_distributed_context
    from megatron.bridge.training.utils.checkpoint_utils import read_run_config

    if not torch.cuda.is_available():
        cpu_patches.install()
    run = read_run_config(str(checkpoint / "run_config.yaml"))
    base = _base_directory(config, run)
    bridge = _bridge(base)
    # One process with gloo: Bridge then keeps everything on the CPU.
    with temporary_distributed_context(backend="gloo"):
        adapter = _adapter(run)
        model = _adapted(config, bridge, checkpoint, adapter) if adapter else _loaded(bridge, checkpoint)
        _save(bridge, model, base, directory)


def _base_directory(config: TrainingConfig, run: dict[str, Any]) -> str:
    """Where the base's files lie, of the revision that the run had."""
    tokenizer = run.get("tokenizer") or {}
    pinned = {name: tokenizer.get(name) for name in ("tokenizer_model", "hf_tokenizer_kwargs")}
    return directory_of(str(config.hf_model_path), SimpleNamespace(**pinned))


def _bridge(base: str) -> Any:
    """A base without weights, which a Megatron checkpoint has replaced, is known by its config alone."""
    from megatron.bridge import AutoBridge
    from transformers import AutoConfig

    if any(Path(base).glob("*.safetensors")):
        return AutoBridge.from_hf_pretrained(base)
    return AutoBridge.from_hf_config(AutoConfig.from_pretrained(base))


def _loaded(bridge: Any, checkpoint: Path | None) -> Any:
    """The model of a checkpoint. There are no gradients to fuse, with what this machine may lack."""
    return bridge.load_megatron_model(checkpoint, mp_overrides={"gradient_accumulation_fusion": False})


def _save(bridge: Any, model: list[Any], base: str, directory: Path) -> None:
    """Tokenizer, chat template and generation config are the base's; adapters are merged."""
    known = getattr(bridge.hf_pretrained, "config", bridge.hf_pretrained)
    # As the weights are written; the base's may have been of another precision.
    known.dtype = next(model[0].parameters()).dtype
    bridge.save_hf_pretrained(model, directory, show_progress=False, source_path=base)


# -- adapters --------------------------------------------------------------------------------------

# Of the settings of a run's adapters those that make their shape.
ADAPTER = (
    "target_modules", "exclude_modules", "dim", "alpha", "dropout", "dropout_position", "normalize_moe_lora",
    "share_expert_adapters",
)  # fmt: skip


def _adapter(run: dict[str, Any]) -> Any:
    """LoRA as the run had it; None where all of the model was trained."""
    from megatron.bridge.peft.lora import LoRA

    settings = run.get("peft")
    return LoRA(**{key: settings[key] for key in ADAPTER if key in settings}) if settings else None


def _adapted(config: TrainingConfig, bridge: Any, checkpoint: Path, adapter: Any) -> list[Any]:
    """The base model with the adapters of a checkpoint on it."""
    from megatron.core.utils import unwrap_model

    model = unwrap_model(_base(config, bridge))
    # A loaded checkpoint has its run's setting again: adapters would be made on the GPU, if there is one.
    model[0].config.use_cpu_initialization = True
    adapter(model, training=False)
    _load_adapter(model[0], checkpoint, adapter)
    return list(model)


def _base(config: TrainingConfig, bridge: Any) -> Any:
    """What the run began from: its Megatron checkpoint, else the weights of hf_model_path."""
    import torch

    if config.checkpoint_megatron:
        return _loaded(bridge, latest_complete(Path(config.checkpoint_megatron)))
    provider = bridge.to_megatron_provider()
    if not torch.cuda.is_available():
        plain_model(provider)
    fallbacks.apply_fallbacks(provider, ())
    provider.finalize()
    return provider.provide_distributed_model(wrap_with_ddp=False, use_cpu_initialization=True)


def _load_adapter(model: Any, checkpoint: Path, adapter: Any) -> None:
    """Load the adapters' weights, all of them: what the checkpoint lacks is raised by megatron-core."""
    from megatron.bridge.training.checkpointing import (
        _generate_model_state_dict,
        apply_peft_adapter_filter_to_state_dict,
    )
    from megatron.core import dist_checkpointing

    wanted = apply_peft_adapter_filter_to_state_dict(_generate_model_state_dict([model], {}), adapter)
    loaded = dist_checkpointing.load(wanted, str(checkpoint))["model"]
    model.load_state_dict(loaded, strict=False)  # the base's weights are there already
