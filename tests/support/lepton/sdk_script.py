"""Call NVIDIA's own SDK: one JSON line in, one out.

The script runs in its own environment: see sdk.py.
"""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import Any

from leptonai.api.v2.client import APIClient
from leptonai.api.v2.types.job import LeptonJob, LeptonJobState
from leptonai.api.v2.types.secret import SecretItem
from pydantic import BaseModel

# Functions whose arguments must have the SDK's own types.
TYPES = {"job.create": LeptonJob, "secret.create": SecretItem}
# The SDK skips items that it cannot parse, and prints this to stderr.
SKIPPED = "[lepton-error]"


def call(request: dict[str, Any]) -> Any:
    """Call `function`, such as job.get, with `arguments`. until: read a stream up to this text.

    The function `states` returns the states that the SDK knows.
    """
    if request["function"] == "states":
        return [state.value for state in LeptonJobState]
    client = APIClient(request["workspace"], request["token"], request["url"])
    resource, method = request["function"].split(".")
    arguments = request["arguments"]
    if kind := TYPES.get(request["function"]):
        arguments = {name: typed(kind, value) for name, value in arguments.items()}
    complaints = io.StringIO()
    with redirect_stderr(complaints):
        answer = getattr(getattr(client, resource), method)(**arguments)
    if SKIPPED in complaints.getvalue():
        raise ValueError(complaints.getvalue())
    return read(answer, request["until"]) if isinstance(answer, Iterator) else plain(answer)


def typed(kind: type[BaseModel], value: Any) -> Any:
    return [kind(**one) for one in value] if isinstance(value, list) else kind(**value)


def read(chunks: Iterator[str], until: str | None) -> str:
    text = ""
    for chunk in chunks:
        text += chunk
        if until and until in text:
            break
    return text


def plain(answer: Any) -> Any:
    if isinstance(answer, list):
        return [plain(one) for one in answer]
    return answer.model_dump(mode="json", by_alias=True) if isinstance(answer, BaseModel) else answer


def main() -> None:
    for line in sys.stdin:
        try:
            answer = {"answer": call(json.loads(line))}
        except Exception as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
