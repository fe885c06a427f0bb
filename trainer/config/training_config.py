"""The training config: every key of the seed's own, declared once. Pydantic, no torch.

Sections of Megatron-Bridge's ConfigContainer (train, optimizer, ...) pass through as they are; what
may stand in them is checked against the installed Bridge's own classes: see sections.py.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

Section = dict[str, JsonValue]

# More than any cluster has; checks try sizes one by one.
MOST_PARALLEL = 1_000_000
ParallelSize = Annotated[int, Field(ge=1, le=MOST_PARALLEL)]


class RecipeConfig(BaseModel):
    """Arguments of the recipe; what it does not take is set on what it returns."""

    model_config = ConfigDict(extra="allow", populate_by_name=True, serialize_by_alias=True)
    __pydantic_extra__: dict[str, JsonValue]

    target: str | None = Field(
        default=None,
        alias="_target_",
        description="A recipe of megatron.bridge.recipes.nemotronh in place of the model's usual one.",
    )
    tensor_model_parallel_size: ParallelSize | None = None
    pipeline_model_parallel_size: ParallelSize | None = None
    context_parallel_size: ParallelSize | None = None
    expert_model_parallel_size: ParallelSize | None = None
    expert_tensor_parallel_size: ParallelSize | None = None
    sequence_parallel: bool | None = None

    def values(self) -> dict[str, Any]:
        """The arguments that are given."""
        given = self.model_dump(mode="json", exclude={"target"}, exclude_none=True)
        return {key: value for key, value in given.items() if key != "_target_"}


class DatasetConfig(BaseModel):
    """The packed data. Other keys are those of Bridge's GPTSFTDatasetConfig."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    nano3_packed_sft_dir: str | None = Field(
        default=None,
        min_length=1,
        description="Directory that holds the packed splits: splits/train/*.parquet, splits/valid/.",
    )


class ExportConfig(BaseModel):
    """What an export takes: one checkpoint."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str = Field(
        min_length=1, description="One complete iter_* directory of a Megatron checkpoint."
    )


def _section(what: str) -> Any:
    return Field(
        default_factory=dict, description=f"{what}: passed to Megatron-Bridge's section of this name."
    )


class TrainingConfig(BaseModel):
    """A whole supervised fine-tuning run."""

    model_config = ConfigDict(extra="forbid")

    device: Literal["cuda", "cpu"] = Field(
        default="cuda", description="cpu trains small models in float32, to try things out."
    )
    hf_model_path: str | None = Field(
        default=None,
        min_length=1,
        description="Hugging Face id or local directory of the base weights, loaded through AutoBridge.",
    )
    checkpoint_megatron: str | None = Field(
        default=None,
        min_length=1,
        description="Megatron checkpoint to begin from; wins over hf_model_path's weights.",
    )
    seq_length: int = Field(
        default=4096, ge=1, description="Training sequence length in tokens; equals the data's pack_size."
    )
    peft: Literal["lora"] | None = Field(
        default=None, description="lora for adapter tuning, null for full fine-tuning."
    )
    export: ExportConfig | None = Field(
        default=None,
        description="Set, nothing is trained: the checkpoint becomes a Hugging Face directory, written on "
        "the CPU by one process. hf_model_path has its tokenizer, and the weights that an adapter is for.",
    )
    recipe: RecipeConfig = Field(default_factory=RecipeConfig)
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    train: Section = _section("Training loop (train_iters, global_batch_size, ...)")
    validation: Section = _section("Validation (eval_interval, eval_iters)")
    optimizer: Section = _section("Optimizer (lr, weight_decay, ...)")
    scheduler: Section = _section("Learning-rate schedule")
    ddp: Section = _section("Data parallelism")
    checkpoint: Section = _section("Checkpoints (save, save_interval, ...)")
    logger: Section = _section("Logging")
    rng: Section = _section("Random numbers (seed)")
    dist: Section = _section("Process groups")
    tokenizer: Section = _section("Tokenizer")
    model: Section = _section("Model provider")
    lora: Section = _section("LoRA adapters (dim, alpha, target_modules)")
    comm_overlap: Section = _section("Overlap of communication (tp_comm_overlap, ...)")
    profiling: Section = _section("Profilers")
    rerun_state_machine: Section = _section("Checks of results, and what to do about bad ones")
    straggler: Section = _section("Detection of slow ranks")
    nvrx_straggler: Section = _section("Detection of slow ranks by nvidia-resiliency-ext")
    ft: Section = _section("Fault tolerance by nvidia-resiliency-ext")
    inprocess_restart: Section = _section("Restart within the process by nvidia-resiliency-ext")
    tensor_inspect: Section = _section("Inspection of tensors")
    mixed_precision: str | Section | None = Field(
        default=None, description="Bridge's recipe of precision, e.g. bf16_mixed, or single values of it."
    )

    @field_validator("checkpoint")
    @classmethod
    def _names_are_text(cls, section: Section) -> Section:
        for where in PATHS:
            _, name, key = where.split("/")
            if name == "checkpoint" and key in section and not isinstance(section[key], str):
                raise ValueError(f"{key} has to be a path")
        return section

    def client_paths(self) -> list[tuple[str, str]]:
        """(JSON pointer, path) of every value that names a place on the cluster's file system."""
        return list(self._paths())

    def _paths(self) -> Iterator[tuple[str, str]]:
        yield from self._own_paths()
        open_ended = {"dataset": self.dataset.model_extra, "recipe": self.recipe.values()}
        sections: dict[str, Any] = {**self.__dict__, **open_ended}
        for name, section in sections.items():
            if isinstance(section, dict):
                for where, item in walk(section, f"/{name}"):
                    if isinstance(item, str) and (where in PATHS or looks_like_path(item)):
                        yield where, item

    def _own_paths(self) -> Iterator[tuple[str, str]]:
        model = self.hf_model_path
        named = {
            "/hf_model_path": model if model and is_local(model) else None,
            "/checkpoint_megatron": self.checkpoint_megatron,
            "/export/checkpoint": self.export.checkpoint if self.export else None,
            "/dataset/nano3_packed_sft_dir": self.dataset.nano3_packed_sft_dir,
        }
        yield from ((where, path) for where, path in named.items() if path)


# A path even where it does not look like one. Every other string of a section counts by its looks:
# Bridge has many keys that name files, and more with each version.
PATHS = (
    "/checkpoint/save", "/checkpoint/load", "/checkpoint/pretrained_checkpoint", "/logger/tensorboard_dir",
)  # fmt: skip

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def walk(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Everything inside a JSON value, each with its pointer (RFC 6901)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        here = f"{where}/{str(key).replace('~', '~0').replace('/', '~1')}"
        yield here, item
        yield from walk(item, here)


def looks_like_path(text: str) -> bool:
    leads_away = text in (".", "..") or "/../" in text or text.endswith("/..")
    return leads_away or text.startswith(("/", "./", "../", "~", "file:")) or "://" in text


def is_local(model: str) -> bool:
    """Whether a model's name is a path and not an id of the Hugging Face hub."""
    return HUB_ID.fullmatch(model) is None
