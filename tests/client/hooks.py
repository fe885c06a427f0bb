"""Give schemathesis an existing job, and bodies that create new jobs; loaded by SCHEMATHESIS_HOOKS.

Only valid requests are changed: deliberately invalid requests stay invalid.
"""

import json
import os
from typing import Any

import schemathesis

KNOWN: dict[str, Any] = json.loads(os.environ["KNOWN"])
"""job_id, iteration and path of an existing file, and fields of a valid body."""
PLACE = ("job_id", "iteration", "path")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    if not case.meta.generation.mode.is_positive:
        return
    if case.operation.label in ("POST /v1/jobs", "POST /v1/jobs:plan") and isinstance(case.body, dict):
        case.body.update(KNOWN["body"])
    parameters = case.path_parameters
    # A link from an earlier response has already set a real id.
    if "job_id" in parameters and not str(parameters["job_id"]).startswith("job-"):
        parameters.update({name: KNOWN[name] for name in PLACE if name in parameters})
