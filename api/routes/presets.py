"""Presets and models: what a job can name instead of spelling it out."""

from fastapi import APIRouter, Depends

from api import schemas
from api.auth import get_caller
from api.problems import declared
from trainer.models import MODELS
from trainer.presets import Preset, PresetNotFound, load_preset, preset_names
from worker.errors import NotFound

router = APIRouter(tags=["presets"], dependencies=[Depends(get_caller)])


@router.get("/presets", responses=declared())
def list_presets() -> schemas.PresetList:
    """Training configs that a job can name."""
    return schemas.PresetList(items=[load_preset(name) for name in preset_names()])


@router.get("/presets/{name}", responses=declared(404, 422))
def get_preset(name: str) -> Preset:
    """One preset with its values."""
    try:
        return load_preset(name)
    except PresetNotFound as error:
        raise NotFound(str(error)) from error


@router.get("/models", responses=declared())
def list_models() -> schemas.ModelList:
    """Models that the service knows, and what they need."""
    return schemas.ModelList(items=list(MODELS))
