"""The job spec of a request. Its training config is declared in trainer/config/training_config.py."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from worker.planning.bounds import MAX_ITEMS, MAX_KEY, Bounded, Few, Text

DEFAULT_PRESET = "nano3"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=63)]
ShortText = Annotated[str, StringConstraints(max_length=MAX_KEY)]
LabelValue = Annotated[str, StringConstraints(max_length=255)]


Overrides = Annotated[list[str] | dict[str, Any], Bounded, Few]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Inputs(Strict):
    """The job's input files."""

    packed_parquet: Text | None = Field(
        default=None, description="Directory that holds the packed splits (`splits/train/*.parquet`)."
    )
    checkpoint_megatron: Text | None = Field(
        default=None, description="Megatron checkpoint to start from instead of hf_model_path."
    )


class RequestedResources(Strict):
    """The job's resources. Omitted values come from the preset, else from the cluster."""

    nodes: int | None = Field(default=None, ge=1, le=1_000_000)
    gpus_per_node: int | None = Field(default=None, ge=1, le=1_000_000)
    time_limit_minutes: int | None = Field(default=None, ge=1, le=10_000_000)


class JobSpec(Strict):
    """The request for a supervised fine-tuning job."""

    name: Name = Field(description="Display name; lowercase letters, digits and hyphens.")
    config: Annotated[str | dict[str, Any], Bounded] = Field(
        default=DEFAULT_PRESET, description="Name of a preset, or a complete training config as an object."
    )
    cluster: ShortText | None = Field(
        default=None, description="Name of a cluster. Default: the service's default cluster."
    )
    attached: bool = Field(
        default=False, description="Selects the profile's run_partition (true) or batch_partition (false)."
    )
    overrides: Overrides = Field(
        default_factory=list,
        description='Changes to the config: a dotlist (["section.key=value"]) or an object.',
    )
    args: Annotated[list[str], Bounded, Few] = Field(
        default_factory=list,
        description="Passthrough arguments, e.g. --seq-length 8192.",
    )
    force_squash: bool = Field(
        default=False, description="Import the container image again, even if it was imported before."
    )
    inputs: Inputs = Field(default_factory=Inputs)
    resources: RequestedResources = Field(default_factory=RequestedResources)
    secrets: dict[ShortText, ShortText] = Field(
        default_factory=dict,
        max_length=MAX_ITEMS,
        description="Environment name -> name of a secret of the cluster profile.",
    )
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=MAX_ITEMS)
    plan_hash: ShortText | None = Field(
        default=None, description="Hash of the agreed plan. A job with another plan is rejected with 409."
    )
