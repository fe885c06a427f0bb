"""Inspect files that only the cluster sees: run the trainer's own checks on the login node."""

from pathlib import Path

from trainer.preflight.remote import ConfigRequest, DataRequest, InspectionResult
from worker.backends.access.transport import Transport
from worker.errors import BackendUnavailable

# The interpreter and its modules may be loaded over a network file system.
START_SECONDS = 30.0
MAX_CHARACTERS = 8 << 20


def inspect(
    request: ConfigRequest | DataRequest, *, python: Path, code: Path, transport: Transport
) -> InspectionResult:
    """Run python -m trainer.preflight.remote on the login node. Raises BackendUnavailable.

    code: directory of the staged trainer code.
    """
    # -P: do not import a directory named trainer in the user's home.
    command = ["env", f"PYTHONPATH={code}", str(python), "-P", "-m", "trainer.preflight.remote"]
    answer = transport.run(command, stdin=request.model_dump_json(), timeout=request.seconds + START_SECONDS)
    if answer.code != 0:
        raise _failed(python, transport, answer.err)
    if len(answer.out) > MAX_CHARACTERS:
        raise _failed(python, transport, f"its answer has more than {MAX_CHARACTERS} characters")
    try:
        return InspectionResult.model_validate_json(answer.out)
    except ValueError:
        raise _failed(python, transport, f"its answer was {answer.out[:200]!r}") from None


def _failed(python: Path, transport: Transport, output: str) -> BackendUnavailable:
    reason = output.strip().rpartition("\n")[2][-300:] or "it gave no reason"
    return BackendUnavailable(
        f"{python} on {transport.description} cannot inspect files: {reason}",
        hint="login_python has to be Python 3.12 with the trainer's packages: pyarrow, pydantic, "
        "jsonschema, pyyaml.",
    )
