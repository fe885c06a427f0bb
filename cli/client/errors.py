"""Errors of the client, and the exit code of each.

ClientError
+-- Misused             an option, variable or file is wrong
+-- NoKey               there is no key to send
+-- ApiError            the service rejected the request, with a message
+-- NotTheService       another server responded
+-- Unreachable         there was no response
+-- TimedOut            --timeout passed
+-- BadDownload         the downloaded data differ from the description
"""

from enum import IntEnum
from http import HTTPStatus
from typing import Any


class ExitCode(IntEnum):
    """Exit codes, as in docs/cli.md."""

    OK = 0
    ERROR = 1
    USAGE = 2
    JOB_FAILED = 3
    JOB_CANCELLED = 4
    NOT_FOUND = 5
    NOT_ALLOWED = 6
    UNAVAILABLE = 7
    TIMED_OUT = 8


UNAVAILABLE = frozenset({429, 502, 503, 504, 507})

_EXIT_CODES: dict[int, ExitCode] = {
    HTTPStatus.UNAUTHORIZED: ExitCode.NOT_ALLOWED,
    HTTPStatus.FORBIDDEN: ExitCode.NOT_ALLOWED,
    HTTPStatus.NOT_FOUND: ExitCode.NOT_FOUND,
    **dict.fromkeys(UNAVAILABLE, ExitCode.UNAVAILABLE),
}


class ClientError(Exception):
    """Base of all errors: a message, a hint what to do next, and the command's exit code."""

    exit_code = ExitCode.ERROR

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Misused(ClientError):
    exit_code = ExitCode.USAGE


class NoKey(ClientError):
    exit_code = ExitCode.NOT_ALLOWED


class Unreachable(ClientError):
    exit_code = ExitCode.UNAVAILABLE


class TimedOut(ClientError):
    exit_code = ExitCode.TIMED_OUT


class NotTheService(ClientError):
    pass


class BadDownload(ClientError):
    pass


class ApiError(ClientError):
    """A problem+json response; `field_errors` are its errors (pointer, detail, hint)."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(
            str(problem.get("detail") or f"The service responded with status {status}."), problem.get("hint")
        )
        self.status = status
        self.code = str(problem.get("code", ""))
        self.request_id = str(problem.get("request_id", ""))
        self.field_errors: list[dict[str, Any]] = problem.get("errors") or []
        self.exit_code = _EXIT_CODES.get(status, ExitCode.ERROR)
