"""All that a plan needs to know about a config and the files that it names, in one answer. No torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from pydantic import BaseModel, model_validator

from trainer.config.bridge_schema import recipes
from trainer.config.effective import recipes_of
from trainer.config.section_checks import SectionFault, section_faults
from trainer.config.training_config import TrainingConfig
from trainer.path_roots import limited_to
from trainer.preflight import Estimate, Finding, Hardware, check, fit, memory_of
from trainer.preflight.data import SAMPLE_SECONDS


class AssessmentRequest(BaseModel):
    """A config to assess for this hardware."""

    config: TrainingConfig
    hardware: Hardware
    roots: list[Path] = []
    """No link may lead out of these directories."""
    project: str = ""
    """Whose request it is: projects share no process and no result."""
    seconds: float = SAMPLE_SECONDS
    """Time limit of reading data."""


class Assessment(BaseModel):
    """What the checks say about a config. Pointers lead into the training config."""

    faults: list[SectionFault] = []
    """Invalid keys and values of sections. If there are any, nothing else was checked."""
    recipes: list[str] = []
    """Names of the possible recipes; the first one determines the values."""
    fitted: list[Finding] = []
    """Changes that fit the recipe's parallelism to the GPUs: see trainer.preflight.fit."""
    findings: list[Finding] = []
    """Of the config with these changes."""
    memory: Estimate | None = None

    @model_validator(mode="after")
    def _names_known_recipes(self) -> Self:
        if not (self.recipes or self.faults) or not set(self.recipes) <= recipes().keys():
            raise ValueError("recipes has to name at least one recipe, and known ones only")
        return self


def assess(request: AssessmentRequest, *, files: bool = True) -> Assessment:
    """Check a config. files: whether this machine can read the files that the config names."""
    with limited_to(request.roots):
        return _assess(request, files=files)


def _assess(request: AssessmentRequest, *, files: bool) -> Assessment:
    config, hardware = request.config, request.hardware
    if faults := section_faults(config, files=files):
        return Assessment(faults=faults)
    fitted = [] if config.export else fit(config, hardware.gpus, files=files)
    config = with_fitted(config, fitted)
    return Assessment(
        recipes=[recipe.name for recipe in recipes_of(config, files=files)],
        fitted=fitted,
        findings=check(config, hardware, files=files, seconds=request.seconds),
        memory=memory_of(config, hardware, files=files),
    )


def with_fitted(config: TrainingConfig, fitted: Iterable[Finding]) -> TrainingConfig:
    """Return the config with the changes that the findings of `fit` suggest."""
    changes = {
        one.suggestion.field.removeprefix("recipe."): one.suggestion.to for one in fitted if one.suggestion
    }
    return config.model_copy(update={"recipe": config.recipe.model_copy(update=changes)})
