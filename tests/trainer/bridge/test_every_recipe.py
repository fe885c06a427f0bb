"""Values of every preset reach Bridge's ConfigContainer, for all models, with and without adapters.

And Bridge accepts, on 8, 16 and 32 GPUs, every config that our checks accept. These tests find a field that
a new Bridge renames before a run on GPUs does.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub_cache import directory_in, make_hub
from tests.support.trainer_runs import PROJECT, need_trainer, trainer_python
from trainer.config.effective import Effective, given, recipe_of
from trainer.config.models import MODELS, NANO, SUPER
from trainer.config.presets import load_preset, preset_names
from trainer.config.training_config import RecipeConfig, TrainingConfig
from trainer.preflight import Finding, Hardware, fit
from trainer.preflight.shape import check
from worker.planning.config import compose
from worker.planning.spec import JobSpec

Shape = tuple[str, int, int, int, int, int]
pytestmark = [pytest.mark.training, pytest.mark.slow]

LIKE_NANO = "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16"
PRESETS = [name for name in preset_names() if load_preset(name).config.get("device") != "cpu"]
SCHEMES = ("null", "lora")
SHORT = {model.id: model.id.rpartition("/")[2].removesuffix("-BF16") for model in MODELS}

EIGHT_BY_FOUR = ("recipe.tensor_model_parallel_size=8", "recipe.pipeline_model_parallel_size=4")

# Command lines of NVIDIA's reference, and examples for its parameters.
SEED = {
    "longer": ("default", ["peft=lora", "seq_length=8192", "train.global_batch_size=256"]),
    "super": (
        "default",
        [f"hf_model_path={SUPER}", *EIGHT_BY_FOUR],
    ),
    "super-full": (
        "nano3",
        [f"hf_model_path={SUPER}", *EIGHT_BY_FOUR],
    ),
    "values": (
        "nano3",
        ["checkpoint.save=/lustre/runs/nano3-sft/checkpoints", "train.train_iters=42", "optimizer.lr=2e-5",
         "optimizer.weight_decay=0.05", "model.attention_backend=flash", "scheduler.lr_decay_iters=77"],
    ),
}  # fmt: skip
OURS = {
    f"{SHORT[model.id]}-{scheme}-{preset}": (preset, [f"hf_model_path={model.id}", f"peft={scheme}"])
    for model in MODELS
    for scheme in SCHEMES
    for preset in PRESETS
}
CASES = OURS | SEED
WORLDS = (8, 16, 32)

# Packages of NVIDIA's containers that are missing on a machine where pip has installed Transformer Engine.
KERNELS = ["fused_weight_gradient_mlp_cuda", "flash_attn", "deep_ep"]
ONE_RANK, FLEX = "recipe.expert_model_parallel_size=1", "model.moe_token_dispatcher_type=flex"
HYBRID = "HYBRID"
MACHINES: dict[str, tuple[list[str], list[str], dict[str, Any]]] = {
    "nothing": ([], [], {"model.moe_token_dispatcher_type": "alltoall"}),
    "all": ([], KERNELS, {"model.moe_token_dispatcher_type": "flex"}),
    "one-rank": ([ONE_RANK], KERNELS, {"model.moe_token_dispatcher_type": "alltoall"}),
    "set": ([FLEX], [], {"model.moe_token_dispatcher_type": "flex"}),
    "no-apex": ([f"hf_model_path={SUPER}"], [], {"model.gradient_accumulation_fusion": False}),
    "apex": ([f"hf_model_path={SUPER}"], KERNELS, {"model.gradient_accumulation_fusion": True}),
    "no-flash": ([f"hf_model_path={HYBRID}"], [], {"model.attention_backend": "fused"}),
    "flash": ([f"hf_model_path={HYBRID}"], KERNELS, {"model.attention_backend": "flash"}),
}  # fmt: skip

# TP, PP, CP, EP and ETP (0: unset) of each model, valid or not.
SHAPES = [
    (model.id, *sizes)
    for model in MODELS
    for sizes in itertools.product((1, 2, 4, 16), (1, 2, 4), (1, 2), (1, 8, 16), (0, 1))
    if model.id != LIKE_NANO
]


def composed(preset: str, overrides: list[str], packed: Path) -> TrainingConfig:
    """Compose a config like the service."""
    spec = JobSpec(
        name="recipe", config=preset, overrides=[*overrides, f"dataset.nano3_packed_sft_dir={packed}"]
    )
    return compose(spec, load_preset(preset)).config


def fitted(config: TrainingConfig, gpus: int) -> TrainingConfig:
    """Apply the changes that a plan makes to the recipe's shape."""
    found = [one.suggestion for one in fit(config, gpus) if one.suggestion]
    changes = {one.field.removeprefix("recipe."): one.to for one in found}
    return config.model_copy(update={"recipe": config.recipe.model_copy(update=changes)})


def errors(config: TrainingConfig, gpus: int) -> list[Finding]:
    """Errors of our checks of the shape. Bridge has no rule for the minimum number of GPUs of a model."""
    found = check(Effective(config), Hardware(nodes=gpus // 8, gpus_per_node=8))
    return [one for one in found if one.severity == "error" and one.code != "too_few_gpus"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    packed = tmp_path_factory.mktemp("packed")
    shard = packed / "splits" / "train" / "a.parquet"
    shard.parent.mkdir(parents=True)
    shard.touch()
    return packed


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hub(tmp_path_factory.mktemp("hub") / "cache")


@pytest.fixture(scope="module")
def built(packed: Path, hub: Path) -> dict[str, Any]:
    """Answers of tests/support/building.py to all cases, in one process."""
    need_trainer()
    return ask(dict([*_asked(packed), *_machines(packed, hub), *_shapes(packed)]), hub)


def _machines(packed: Path, hub: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, (overrides, installed, values) in MACHINES.items():
        here = [one.replace(HYBRID, str(directory_in(hub, NANO))) for one in overrides]
        config = composed("nano3", here, packed).model_dump(mode="json")
        yield name, {"config": config, "keys": list(values), "installed": installed}


def _shapes(packed: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for shape in SHAPES:
        for gpus in WORLDS:
            config = fitted(shaped(shape, packed), gpus).model_dump(mode="json")
            yield f"{shape}-{gpus}", {"config": config, "gpus": gpus}


def shaped(shape: Shape, packed: Path) -> TrainingConfig:
    model, tensor, pipeline, context, expert, expert_tensor = shape
    sizes = {
        "tensor_model_parallel_size": tensor,
        "pipeline_model_parallel_size": pipeline,
        "context_parallel_size": context,
        "expert_model_parallel_size": expert,
        "expert_tensor_parallel_size": expert_tensor or None,
    }
    base = composed("nano3", [f"hf_model_path={model}"], packed)
    return base.model_copy(update={"recipe": RecipeConfig.model_validate(sizes)})


def _asked(packed: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, (preset, overrides) in CASES.items():
        config = composed(preset, overrides, packed)
        yield name, {"config": config.model_dump(mode="json"), "keys": list(expected(config, Path()))}
        for gpus in WORLDS:
            fitting = fitted(config, gpus)
            yield f"{name}-{gpus}", {"config": fitting.model_dump(mode="json"), "gpus": gpus}


def ask(cases: dict[str, dict[str, Any]], hub: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_HUB_CACHE", str(hub))
        done = trainer_python("tests/support/building.py", input=json.dumps(cases), cwd=PROJECT)
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def expected(config: TrainingConfig, base: Path) -> dict[str, Any]:
    """Every value that a config sets, and values that its own keys imply."""
    length = config.seq_length
    return {
        **given(config, recipe_of(config)),
        "model.seq_length": length,
        "dataset.seq_length": length,
        "dataset.offline_packing_specs.packed_sequence_size": length,
        "dataset.enable_offline_packing": True,
        "dataset.dataset_root": config.dataset.nano3_packed_sft_dir,
        "checkpoint.pretrained_checkpoint": str(base),
        "checkpoint.load": None,
        "peft": "LoRA" if config.peft else None,
        **schedule(config),
    }


def schedule(config: TrainingConfig) -> dict[str, Any]:
    """Values of schedules that recipes set for their own runs, and configs replace."""
    decay = config.optimizer.get("weight_decay")
    decays = {"scheduler.start_weight_decay": decay, "scheduler.end_weight_decay": decay} if decay else {}
    return {"scheduler.lr_decay_iters": config.scheduler.get("lr_decay_iters"), **decays}


@pytest.mark.parametrize("name", CASES)
def test_values_of_a_config_reach_the_container(
    name: str, built: dict[str, Any], packed: Path, hub: Path
) -> None:
    config = composed(*CASES[name], packed)
    base = directory_in(hub, str(config.hf_model_path))
    assert built["answers"][name]["values"] == expected(config, base)


@pytest.mark.parametrize("gpus", WORLDS)
@pytest.mark.parametrize("name", CASES)
def test_bridge_accepts_what_the_checks_accept(
    name: str, gpus: int, built: dict[str, Any], packed: Path
) -> None:
    need_validation(built)
    rejection = built["answers"][f"{name}-{gpus}"]["rejection"]
    found = errors(fitted(composed(*CASES[name], packed), gpus), gpus)
    assert bool(rejection) == bool(found), (rejection, [one.message for one in found])


@pytest.mark.parametrize("name", MACHINES)
def test_missing_packages_have_fallbacks(name: str, built: dict[str, Any]) -> None:
    assert built["answers"][name]["values"] == MACHINES[name][2]


@pytest.mark.parametrize("gpus", WORLDS)
def test_no_shape_is_rejected_only_by_bridge(gpus: int, built: dict[str, Any], packed: Path) -> None:
    need_validation(built)
    rejected = {shape: built["answers"][f"{shape}-{gpus}"]["rejection"] for shape in SHAPES}
    passed = [shape for shape in SHAPES if not errors(fitted(shaped(shape, packed), gpus), gpus)]
    assert {shape: rejected[shape] for shape in passed if rejected[shape]} == {}
    assert passed


def need_validation(built: dict[str, Any]) -> None:
    if built["missing"]:
        pytest.skip(built["missing"])
