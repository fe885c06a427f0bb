"""Gives schemathesis a job that is there, and bodies that make new ones; loaded by SCHEMATHESIS_HOOKS.

Only where it generates what the document allows: what it breaks on purpose stays broken.
"""

import json
import os
from typing import Any

import schemathesis

KNOWN: dict[str, Any] = json.loads(os.environ["KNOWN"])
"""job_id, iteration and path of something to read, and fields of a body that is accepted."""
PLACE = ("job_id", "iteration", "path")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    if not case.meta.generation.mode.is_positive:
        return
    if case.operation.label in ("POST /v1/jobs", "POST /v1/jobs:plan") and isinstance(case.body, dict):
        case.body.update(KNOWN["body"])
    parameters = case.path_parameters
    # A link from the answer to an earlier request has given a real id already.
    if "job_id" in parameters and not str(parameters["job_id"]).startswith("job-"):
        parameters.update({name: KNOWN[name] for name in PLACE if name in parameters})
