"""The values that a run would have: the config's, else its recipe's, else Bridge's defaults. No torch."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trainer.config.bridge_schema import Recipe, Schema, nested, recipes
from trainer.config.models import known_model
from trainer.config.training_config import TrainingConfig, is_local
from trainer.dataset.files import Meter, read_json
from trainer.dataset.vocabulary import UNREADABLE

# Hugging Face architectures whose providers have fields of their own; all others are GPTs.
HYBRIDS = frozenset({"NemotronHForCausalLM", "FalconH1ForCausalLM"})
MLA = frozenset({
    "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV4ForCausalLM", "Glm4MoeLiteForCausalLM",
    "GlmMoeDsaForCausalLM", "KimiK2ForCausalLM",
})  # fmt: skip


def recipe_of(config: TrainingConfig, *, files: bool = True) -> Recipe:
    """The recipe that a config's model gets: one of Bridge's if it is in the table of models.

    files: whether the files that the config names are seen from here.
    """
    return recipes_of(config, files=files)[0]


def recipes_of(config: TrainingConfig, *, files: bool = True) -> list[Recipe]:
    """All that it may be: several where the model's config.json would have to be seen."""
    known = recipes()
    if config.recipe.target:
        return [known[target_recipe(config.recipe.target, config.peft)]]
    model = known_model(config.hf_model_path)
    if model is not None:
        return [known[model.peft_recipe if config.peft else model.sft_recipe]]
    if is_unseen(config.hf_model_path, files=files):
        return [known[name] for name in GENERIC]
    return [known[_generic(hf_config(config.hf_model_path))]]


def is_unseen(model: str | None, *, files: bool) -> bool:
    """Whether a base model is a directory that cannot be looked into from here."""
    return not files and model is not None and is_local(model)


def target_recipe(target: str, peft: str | None) -> str:
    """Name of the recipe that a `recipe._target_` means. The 2025 containers' names mean what replaced them.

    Raises ValueError for what is no recipe of the Nemotron family.
    """
    module, _, name = target.rpartition(".")
    if module != NEMOTRON and not module.startswith(f"{NEMOTRON}."):
        raise ValueError(f"is not in {NEMOTRON}")
    current = name.replace("_finetune_config", "_peft_config" if peft else "_sft_config")
    known = [one for one in recipes() if one.endswith("_config")]  # the others are this project's
    if current not in known:
        nearest = get_close_matches(current, known, n=1)
        raise ValueError(
            f"is not known; did you mean {NEMOTRON}.{nearest[0]}?" if nearest else "is not known"
        )
    return current


NEMOTRON = "megatron.bridge.recipes.nemotronh"
GENERIC = ("gpt", "mla", "hybrid")


def _generic(hf: Mapping[str, Any]) -> str:
    named = hf.get("architectures")
    architectures = {one for one in named if isinstance(one, str)} if isinstance(named, list) else set()
    return "hybrid" if architectures & HYBRIDS else "mla" if architectures & MLA else "gpt"


def hf_config(model: str | None) -> Mapping[str, Any]:
    """config.json of a local Hugging Face directory; empty where there is none to be read."""
    if model is None or not is_local(model):
        return {}
    try:
        values = read_json(Path(model) / "config.json", Meter())
    except UNREADABLE:
        return {}
    return values if isinstance(values, dict) else {}


def given(config: TrainingConfig, recipe: Recipe) -> dict[str, Any]:
    """Dotted keys of ConfigContainer that a config sets itself, `recipe.*` among them.

    A key that Bridge does not have is given, too; an argument that the recipe takes is not.
    """
    values = {
        recipe.home(key) or f"recipe.{key}": value
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
    """What a config says in one of Bridge's sections, as it is."""
    section = getattr(config, name)
    return section.model_extra if isinstance(section, BaseModel) else section


def flat(prefix: str, values: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Values by dotted key, down to where Bridge has no class of its own."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = nested(schema.get("properties", {}).get(key, {}))
        if inner is not None and isinstance(value, dict):
            found |= flat(f"{prefix}.{key}", value, inner)
        else:
            found[f"{prefix}.{key}"] = value
    return found


class Effective:
    """The values of a run, by dotted key of ConfigContainer.

    files: whether the files that the config names are seen from here; else nothing is read.
    """

    def __init__(self, config: TrainingConfig, *, files: bool = True) -> None:
        self.config = config
        self.files = files
        self.recipe = recipe_of(config, files=files)
        self.given = given(config, self.recipe)
        self.hf = hf_config(config.hf_model_path) if files else {}

    def get(self, key: str) -> Any:
        """A value; of a model without a recipe, as its config.json says. None where nobody says."""
        if key in self.given:
            return self.given[key]
        if key in ("model.seq_length", "dataset.seq_length"):
            return self.config.seq_length
        value = self.recipe.value(key)
        return self.hf.get(HF_NAMES.get(key, ""), value) if self.hf else value

    def recipe_values(self) -> dict[str, Any]:
        """What the recipe sets, lengths and the data's own keys aside."""
        values: dict[str, Any] = {}
        for name, section in self.recipe.values.items():
            if isinstance(section, dict):
                values |= flat(name, section, self.recipe.schema(name))
            else:
                values[name] = section
        return {key: value for key, value in values.items() if key not in REPLACED}

    def pointer(self, key: str) -> str:
        """Where a config sets a dotted key (JSON pointer): in `recipe` if it does so there."""
        section, _, name = key.partition(".")
        at_recipe = section == "model" and name in self.config.recipe.values()
        return "/" + (f"recipe/{name}" if at_recipe else key.replace(".", "/"))

    def count(self, key: str, default: int = 1) -> int:
        """A size; `default` where it is not known."""
        value = self.get(key)
        return value if isinstance(value, int) and 0 < value < 2**63 else default


# Values of a recipe that the config's own keys always replace.
REPLACED = ("model.seq_length", "dataset.seq_length", "dataset.dataset_root")

# What config.json calls the sizes that checks ask for.
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
