"""Presets, their schema, and models that a job can name."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from api import schemas
from api.auth import get_caller
from api.problems import declared
from trainer.config.models import MODELS
from trainer.config.presets import Preset, PresetNotFound, load_preset, preset_names
from worker.errors import NotFound
from worker.planning.config_schema import PresetDetails, config_schema, details
from worker.planning.spec import DEFAULT_PRESET

router = APIRouter(tags=["presets"], dependencies=[Depends(get_caller)])


@router.get("/presets", responses=declared())
def list_presets() -> schemas.PresetList:
    """List the training configs that a job can name, with their parameters and values."""
    return schemas.PresetList(items=[details(name) for name in preset_names()])


@router.get("/presets/{name}", responses=declared(404, 422))
def get_preset(name: str) -> PresetDetails:
    """Return one preset with its parameters, and every value that it or its model's recipe sets."""
    return details(_load(name).name)


@router.get("/schema", responses=declared(404, 422))
def get_schema(
    preset: Annotated[str, Query(description="Name of a preset.")] = DEFAULT_PRESET,
) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a training config, for forms; defaults are the preset's."""
    return config_schema(_load(preset))


@router.get("/models", responses=declared())
def list_models() -> schemas.ModelList:
    """List the models that the service knows, and their requirements."""
    return schemas.ModelList(items=list(MODELS))


def _load(name: str) -> Preset:
    try:
        return load_preset(name)
    except PresetNotFound as error:
        raise NotFound(str(error)) from error
