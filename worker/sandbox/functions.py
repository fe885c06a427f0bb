"""The functions that a child offers: each reads files that a client or a run has named."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from trainer.checkpoints import missing_export_files
from trainer.config.training_config import TrainingConfig
from trainer.failures.suggested_fixes import suggested_fixes
from trainer.path_roots import limited_to
from trainer.preflight.assessment import Assessment, AssessmentRequest, assess
from trainer.preflight.remote import REQUEST, ConfigRequest, DataRequest, InspectionResult, inspect
from trainer.suggestion import Suggestion


@dataclass(frozen=True)
class Function[Q: BaseModel, A: BaseModel]:
    """A function, and how its request and its answer become JSON."""

    name: str
    request: TypeAdapter[Q]
    answer: type[A]
    call: Callable[[Q], A]

    def run(self, request: bytes | str) -> str:
        """Run it on a request as JSON, and return the answer as JSON."""
        return self.call(self.request.validate_json(request)).model_dump_json()


class FixesRequest(BaseModel):
    """The arguments of suggested_fixes."""

    name: str
    config: TrainingConfig
    gpus_per_node: int
    time_limit_minutes: int
    max_minutes: int
    roots: list[Path]
    """No link may lead out of these directories."""
    project: str = ""
    """Whose request it is: projects share no process and no result."""

    def fixes(self, *, files: bool) -> "Fixes":
        limits = (self.gpus_per_node, self.time_limit_minutes, self.max_minutes)
        with limited_to(self.roots):
            return Fixes(items=list(suggested_fixes(self.name, self.config, *limits, files=files)))


class Fixes(BaseModel):
    """Suggested changes, the best first."""

    items: list[Suggestion]


class WeightsRequest(BaseModel):
    """The arguments of missing_export_files."""

    names: list[str]
    index: str
    project: str
    roots: list[Path] = []
    """It reads no files."""

    def answer(self) -> "WeightsAnswer":
        try:
            return WeightsAnswer(is_complete=not missing_export_files(self.names, self.index.encode()))
        except ValueError:
            return WeightsAnswer(is_complete=False)


class WeightsAnswer(BaseModel):
    """Whether a Hugging Face directory has the config and all weights that its index names."""

    is_complete: bool


Request = AssessmentRequest | ConfigRequest | DataRequest | FixesRequest | WeightsRequest


ASSESS = Function[AssessmentRequest, Assessment]("assess", TypeAdapter(AssessmentRequest), Assessment, assess)
INSPECT = Function[ConfigRequest | DataRequest, InspectionResult](
    "inspect", REQUEST, InspectionResult, inspect
)
FIXES = Function[FixesRequest, Fixes](
    "fixes", TypeAdapter(FixesRequest), Fixes, lambda request: request.fixes(files=True)
)
EXPORT = Function[WeightsRequest, WeightsAnswer](
    "export", TypeAdapter(WeightsRequest), WeightsAnswer, WeightsRequest.answer
)

FUNCTIONS: dict[str, Callable[[bytes | str], str]] = {
    one.name: one.run for one in (ASSESS, INSPECT, FIXES, EXPORT)
}
