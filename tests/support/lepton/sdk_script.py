"""NVIDIA's own SDK, call by call: one JSON line in, one out.

It runs in an environment of its own: see sdk.py.
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

# What the SDK wants as its own types.
TYPES = {"job.create": LeptonJob, "secret.create": SecretItem}
# It leaves out what it cannot parse, and says so there.
LEFT_OUT = "[lepton-error]"


def call(request: dict[str, Any]) -> Any:
    """Call `function`, such as job.get, with `arguments`; `until`: of a stream, as much as has that.

    `states` are those that it knows.
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
    if LEFT_OUT in complaints.getvalue():
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
