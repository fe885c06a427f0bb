"""The training config: declares every key of the seed once. Pydantic, no torch.

Sections of Megatron-Bridge's ConfigContainer (train, optimizer, ...) pass through unchanged.
section_checks.py checks their content against the config classes of the described Bridge.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

Section = dict[str, JsonValue]

# More than any cluster has. An upper bound is needed because checks try sizes one by one.
MAX_PARALLEL = 1_000_000
ParallelSize = Annotated[int, Field(ge=1, le=MAX_PARALLEL)]


class RecipeConfig(BaseModel):
    """Arguments of the recipe. A key that is not a parameter is set on the container it returns."""

    model_config = ConfigDict(extra="allow", populate_by_name=True, serialize_by_alias=True)
    __pydantic_extra__: dict[str, JsonValue]

    target: str | None = Field(
        default=None,
        alias="_target_",
        description="A recipe of megatron.bridge.recipes.nemotronh instead of the model's default recipe.",
    )
    tensor_model_parallel_size: ParallelSize | None = None
    pipeline_model_parallel_size: ParallelSize | None = None
    context_parallel_size: ParallelSize | None = None
    expert_model_parallel_size: ParallelSize | None = None
    expert_tensor_parallel_size: ParallelSize | None = None
    sequence_parallel: bool | None = None

    def values(self) -> dict[str, Any]:
        """Arguments that the config sets."""
        given = self.model_dump(mode="json", exclude={"target"}, exclude_none=True)
        return {key: value for key, value in given.items() if key != "_target_"}


class DatasetConfig(BaseModel):
    """The packed data. Other keys are fields of Bridge's GPTSFTDatasetConfig."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    nano3_packed_sft_dir: str | None = Field(
        default=None,
        min_length=1,
        description="Directory that holds the packed splits: splits/train/*.parquet, splits/valid/.",
    )
    packed_val_data_path: str | None = Field(
        default=None,
        min_length=1,
        description="Directory, file or pattern of packed data for validation, instead of splits/valid/.",
    )


class ExportConfig(BaseModel):
    """The checkpoint to export."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str = Field(
        min_length=1, description="One complete iter_* directory of a Megatron checkpoint."
    )


def _section(what: str) -> Any:
    return Field(
        default_factory=dict, description=f"{what}: passed to Megatron-Bridge's section of this name."
    )


class TrainingConfig(BaseModel):
    """The config of a supervised fine-tuning run or an export."""

    model_config = ConfigDict(extra="forbid")

    device: Literal["cuda", "cpu"] = Field(
        default="cuda", description="cpu trains small models in float32, for trying things out."
    )
    hf_model_path: str | None = Field(
        default=None,
        min_length=1,
        description="Hugging Face id or local directory of the base weights, loaded through AutoBridge.",
    )
    checkpoint_megatron: str | None = Field(
        default=None,
        min_length=1,
        description="Megatron checkpoint to begin from; overrides the weights of hf_model_path.",
    )
    seq_length: int = Field(
        default=4096, ge=1, description="Training sequence length in tokens; must equal the data's pack_size."
    )
    peft: Literal["lora"] | None = Field(
        default=None, description="lora for adapter tuning, null for full fine-tuning."
    )
    export: ExportConfig | None = Field(
        default=None,
        description="If set, nothing is trained: one process on the CPU exports the checkpoint as a Hugging "
        "Face directory. hf_model_path provides the tokenizer and, for an adapter, the base weights.",
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
    rerun_state_machine: Section = _section("Checks of results, and the reaction to bad results")
    straggler: Section = _section("Detection of slow ranks")
    nvrx_straggler: Section = _section("Detection of slow ranks by nvidia-resiliency-ext")
    ft: Section = _section("Fault tolerance by nvidia-resiliency-ext")
    inprocess_restart: Section = _section("Restart within the process by nvidia-resiliency-ext")
    tensor_inspect: Section = _section("Inspection of tensors")
    mixed_precision: str | Section | None = Field(
        default=None, description="Bridge's precision recipe, e.g. bf16_mixed, or single values of it."
    )

    @field_validator("checkpoint")
    @classmethod
    def _names_are_text(cls, section: Section) -> Section:
        for where in PATHS:
            _, name, key = where.split("/")
            if name == "checkpoint" and key in section and not isinstance(section[key], str):
                raise ValueError(f"{key} must be a path")
        return section

    def client_paths(self) -> list[tuple[str, str]]:
        """(JSON pointer, path) of every value that is a path on the cluster's file system."""
        return list(self._paths())

    def _paths(self) -> Iterator[tuple[str, str]]:
        yield from self._own_paths()
        other_keys = {"dataset": self.dataset.model_extra, "recipe": self.recipe.values()}
        sections: dict[str, Any] = {**self.__dict__, **other_keys}
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
            "/dataset/packed_val_data_path": self.dataset.packed_val_data_path,
        }
        yield from ((where, path) for where, path in named.items() if path)


# Keys whose value is always a path. Any other string of a section is a path if it looks like one: Bridge has
# many keys that name files, and more with each version.
PATHS = (
    "/checkpoint/save", "/checkpoint/load", "/checkpoint/pretrained_checkpoint", "/logger/tensorboard_dir",
    "/logger/mlflow_tracking_uri",
)  # fmt: skip

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def walk(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """All values inside a JSON value, each with its JSON pointer (RFC 6901)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        here = f"{where}/{str(key).replace('~', '~0').replace('/', '~1')}"
        yield here, item
        yield from walk(item, here)


# Schemes that name files or databases without a slash behind them, too: `sqlite:x`. Dialects follow a +.
SCHEME = re.compile(r"(file|sqlite|msc|s3|gs|hdfs|abfss?|dbfs|https?|ftp)(\+\w+)?:|[a-z][a-z0-9+.-]*:/")


def looks_like_path(text: str) -> bool:
    """Whether a string is a path or a URL by its form, as lenient readers understand it.

    They ignore the case of a scheme and white space around it (RFC 3986, 3.1), decode %2F, and take \\ for /.
    """
    plain = unquote(unquote(text)).strip().replace("\\", "/").lower()
    leads_away = plain in (".", "..") or "/../" in plain or plain.endswith("/..")
    return (
        leads_away or plain.startswith(("/", "./", "../", "~")) or bool(SCHEME.match(plain)) or "://" in plain
    )


def is_local(model: str) -> bool:
    """Whether a model's name is a path instead of an id of the Hugging Face hub."""
    return HUB_ID.fullmatch(model) is None
