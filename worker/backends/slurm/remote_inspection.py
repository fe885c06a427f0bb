"""Looks at files that only the cluster sees: the trainer's own checks, run on the login node."""

from pathlib import Path

from trainer.preflight.remote import ConfigRequest, DataRequest, InspectionResult
from worker.backends.access.transport import Transport
from worker.errors import BackendUnavailable

# The interpreter and its modules may have to come over a network file system.
START_SECONDS = 30.0


def look(
    request: ConfigRequest | DataRequest, *, python: Path, code: Path, transport: Transport
) -> InspectionResult:
    """Ask python -m trainer.preflight.remote. Raises BackendUnavailable.

    code: directory of the trainer's code, staged.
    """
    # -P: a directory of the user's home that is named trainer is not meant.
    command = ["env", f"PYTHONPATH={code}", str(python), "-P", "-m", "trainer.preflight.remote"]
    answer = transport.run(command, stdin=request.model_dump_json(), timeout=request.seconds + START_SECONDS)
    if answer.code != 0:
        raise _failed(python, transport, answer.err)
    try:
        return InspectionResult.model_validate_json(answer.out)
    except ValueError:
        raise _failed(python, transport, f"its answer was {answer.out[:200]!r}") from None


def _failed(python: Path, transport: Transport, said: str) -> BackendUnavailable:
    words = said.strip().rpartition("\n")[2][-300:] or "it gave no reason"
    return BackendUnavailable(
        f"{python} on {transport.description} cannot look at files: {words}",
        hint="login_python has to be Python 3.12 with what the trainer needs: pyarrow, pydantic, jsonschema.",
    )
