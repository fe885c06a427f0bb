"""Effective values of a run: from the config, else the recipe, else Bridge's defaults. No torch."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trainer.config.bridge_schema import Recipe, Schema, nested, recipes
from trainer.config.models import known_model
from trainer.config.training_config import TrainingConfig, is_local
from trainer.dataset.vocabulary import UNREADABLE, read_config

# Hugging Face architectures whose providers have additional fields. All others use the GPT provider.
HYBRIDS = frozenset({"NemotronHForCausalLM", "FalconH1ForCausalLM"})
MLA = frozenset({
    "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV4ForCausalLM", "Glm4MoeLiteForCausalLM",
    "GlmMoeDsaForCausalLM", "KimiK2ForCausalLM",
})  # fmt: skip


def recipe_of(config: TrainingConfig, *, files: bool = True) -> Recipe:
    """The recipe of a config's model: one of Bridge's if the model is in the table of models.

    files: whether this machine can read the files that the config names.
    """
    return recipes_of(config, files=files)[0]


def recipes_of(config: TrainingConfig, *, files: bool = True) -> list[Recipe]:
    """The possible recipes: several if the model's config.json decides and this machine cannot read it."""
    known = recipes()
    if config.recipe.target:
        return [known[target_recipe(config.recipe.target, config.peft)]]
    model = known_model(config.hf_model_path)
    if model is not None:
        return [known[model.peft_recipe if config.peft else model.sft_recipe]]
    if is_only_on_cluster(config.hf_model_path, files=files):
        return [known[name] for name in GENERIC]
    return [known[_generic(hf_config(config.hf_model_path))]]


def is_only_on_cluster(model: str | None, *, files: bool) -> bool:
    """Whether a base model is a directory that this machine cannot read."""
    return not files and model is not None and is_local(model)


def target_recipe(target: str, peft: str | None) -> str:
    """Name of the recipe that `recipe._target_` selects. Names of the 2025 containers map to current ones.

    Raises ValueError if it is not a recipe of the Nemotron family.
    """
    module, _, name = target.rpartition(".")
    if module != NEMOTRON and not module.startswith(f"{NEMOTRON}."):
        raise ValueError(f"is not in {NEMOTRON}")
    current = name.replace("_finetune_config", "_peft_config" if peft else "_sft_config")
    known = [one for one in recipes() if one.endswith("_config")]  # the others are this project's
    if current not in known:
        nearest = get_close_matches(current, known, n=1)
        raise ValueError(f"is unknown; did you mean {NEMOTRON}.{nearest[0]}?" if nearest else "is unknown")
    return current


NEMOTRON = "megatron.bridge.recipes.nemotronh"
GENERIC = ("gpt", "mla", "hybrid")


def _generic(hf: Mapping[str, Any]) -> str:
    named = hf.get("architectures")
    architectures = {one for one in named if isinstance(one, str)} if isinstance(named, list) else set()
    return "hybrid" if architectures & HYBRIDS else "mla" if architectures & MLA else "gpt"


def hf_config(model: str | None) -> Mapping[str, Any]:
    """config.json of a local Hugging Face directory; empty if it cannot be read."""
    if model is None or not is_local(model):
        return {}
    try:
        return read_config(Path(model))
    except UNREADABLE:
        return {}


def given(config: TrainingConfig, recipe: Recipe) -> dict[str, Any]:
    """Dotted keys of ConfigContainer that a config sets, including those in `recipe.*`, with their values.

    Includes keys that Bridge does not have. Excludes parameters of the recipe.
    """
    values = {
        recipe.container_key(key) or f"recipe.{key}": value
        for key, value in config.recipe.values().items()
        if key not in recipe.parameters
    }
    for name in SECTIONS:
        section = section_values(config, name)
        values |= flat(name, section, recipe.schema(name)) if isinstance(section, dict) else {}
    if isinstance(config.mixed_precision, str):
        values["mixed_precision"] = config.mixed_precision
    return values


SECTIONS = (
    "train", "validation", "optimizer", "scheduler", "ddp", "checkpoint", "logger", "rng", "dist", "dataset",
    "tokenizer", "model", "lora", "comm_overlap", "profiling", "rerun_state_machine", "straggler",
    "nvrx_straggler", "ft", "inprocess_restart", "tensor_inspect", "mixed_precision",
)  # fmt: skip


def section_values(config: TrainingConfig, name: str) -> Any:
    """The unchanged content of one of Bridge's sections in a config."""
    section = getattr(config, name)
    return section.model_extra if isinstance(section, BaseModel) else section


def flat(prefix: str, values: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Flatten values to dotted keys, down to fields that are not classes of Bridge."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = nested(schema.get("properties", {}).get(key, {}))
        if inner is not None and isinstance(value, dict):
            found |= flat(f"{prefix}.{key}", value, inner)
        else:
            found[f"{prefix}.{key}"] = value
    return found


class Effective:
    """Values of a run by dotted key of ConfigContainer.

    files: whether this machine can read the files that the config names. If not, no file is read.
    recipe: name of the recipe, if it is known.
    """

    def __init__(self, config: TrainingConfig, *, files: bool = True, recipe: str | None = None) -> None:
        self.config = config
        self.files = files
        self.recipe = recipes()[recipe] if recipe else recipe_of(config, files=files)
        self.given = given(config, self.recipe)
        self.hf = hf_config(config.hf_model_path) if files else {}

    def get(self, key: str) -> Any:
        """A value; from config.json for a model without a recipe. None if unknown."""
        if key in self.given:
            return self.given[key]
        if key in ("model.seq_length", "dataset.seq_length"):
            return self.config.seq_length
        value = self.recipe.value(key)
        return self.hf.get(HF_NAMES.get(key, ""), value) if self.hf else value

    def recipe_values(self) -> dict[str, Any]:
        """Values that the recipe sets, without those in REPLACED."""
        values: dict[str, Any] = {}
        for name, section in self.recipe.values.items():
            if isinstance(section, dict):
                values |= flat(name, section, self.recipe.schema(name))
            else:
                values[name] = section
        return {key: value for key, value in values.items() if key not in REPLACED}

    def config_values(self) -> Iterator[tuple[str, Any, bool]]:
        """Yield key, value, and whether the config sets it: this project's own keys, then the sections."""
        for name in OWN_VALUES:
            yield name, getattr(self.config, name), name in self.config.model_fields_set
        directory = self.config.dataset.nano3_packed_sft_dir
        yield "dataset.nano3_packed_sft_dir", directory, directory is not None
        if validation := self.config.dataset.packed_val_data_path:
            yield "dataset.packed_val_data_path", validation, True
        for key, value in self.given.items():
            yield key, value, True

    def pointer(self, key: str) -> str:
        """JSON pointer to a dotted key in the config: below `recipe` if the config sets the key there."""
        section, _, name = key.partition(".")
        at_recipe = section == "model" and name in self.config.recipe.values()
        return "/" + (f"recipe/{name}" if at_recipe else key.replace(".", "/"))

    def count(self, key: str, default: int = 1) -> int:
        """A positive size; `default` if it is unknown."""
        value = self.get(key)
        return value if type(value) is int and 0 < value < 2**63 else default


# Keys of this project that are outside of Bridge's sections, and set one value each.
OWN_VALUES = ("device", "hf_model_path", "checkpoint_megatron", "seq_length", "peft")

# Values of a recipe that other keys of the config always replace.
REPLACED = ("model.seq_length", "dataset.seq_length", "dataset.dataset_root")

# Names in config.json of the sizes that checks use.
HF_NAMES = {
    "model.num_layers": "num_hidden_layers",
    "model.hidden_size": "hidden_size",
    "model.ffn_hidden_size": "intermediate_size",
    "model.num_attention_heads": "num_attention_heads",
    "model.num_query_groups": "num_key_value_heads",
    "model.vocab_size": "vocab_size",
    "model.kv_channels": "head_dim",
    "model.num_moe_experts": "n_routed_experts",
    "model.moe_router_topk": "num_experts_per_tok",
    "model.moe_ffn_hidden_size": "moe_intermediate_size",
    "model.moe_shared_expert_intermediate_size": "moe_shared_expert_intermediate_size",
    "model.moe_latent_size": "moe_latent_size",
    "model.hybrid_layer_pattern": "hybrid_override_pattern",
    "model.mamba_num_heads": "mamba_num_heads",
    "model.mamba_head_dim": "mamba_head_dim",
    "model.mamba_num_groups": "n_groups",
    "model.mamba_state_dim": "ssm_state_size",
}
