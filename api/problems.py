"""Errors as problem details (RFC 9457, application/problem+json): one table maps them to HTTP statuses."""

import errno
import json
from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from trainer.config.secret_patterns import redacted
from worker import errors
from worker.errors import FieldError, SftError
from worker.field_errors import MAX_ERRORS, field_errors

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
RETRYABLE = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.INSUFFICIENT_STORAGE)

STATUS: dict[type[SftError], HTTPStatus] = {
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Gone: HTTPStatus.GONE,
    errors.IllegalAction: HTTPStatus.CONFLICT,
    errors.PlanDrift: HTTPStatus.CONFLICT,
    errors.SaveDirectoryInUse: HTTPStatus.CONFLICT,
    errors.CheckpointChanged: HTTPStatus.CONFLICT,
    errors.NotExportable: HTTPStatus.CONFLICT,
    errors.NotReachable: HTTPStatus.CONFLICT,
    errors.RangeInvalid: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    errors.InvalidSpec: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.IdempotencyMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Misconfigured: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.ServiceUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.BackendUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

log = structlog.get_logger()


class Problem(BaseModel):
    """The body of every error response of this service."""

    type: str = "about:blank"
    title: str = Field(description="The phrase of the HTTP status.")
    status: int
    code: str = Field(description="What went wrong, as a stable code for programs.")
    detail: str = Field(description="What went wrong, as text for people.")
    hint: str | None = Field(default=None, description="What to do next.")
    errors: list[FieldError] = Field(
        default_factory=list, description="The errors of the request, one entry per field."
    )
    allowed_actions: list[str] | None = Field(default=None, description="What the job's state permits.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    request_id: str


class ProblemResponse(JSONResponse):
    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        # ASCII: a problem quotes the client's input, which may contain characters that UTF-8 cannot encode.
        return json.dumps(content).encode()


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI responses: these statuses, and those that every route under /v1 can return."""
    return {status: _declaration(status) for status in sorted({400, 401, 429, 500, 503, 507, *statuses})}


def _declaration(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": schema}},
    }


def describe(app: FastAPI) -> None:
    """Add the schema Problem, which the routes' responses refer to, to the app's OpenAPI document."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= {**schema.pop("$defs"), "Problem": schema}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def problem(
    request: Request, status: int, code: str, detail: str, *, retry_after: float | None = None, **more: Any
) -> JSONResponse:
    """Return an error response. retry_after: seconds until the request may succeed, if they are known."""
    request.state.problem = code  # for the audit log
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        retryable=status in RETRYABLE,
        request_id=getattr(request.state, "request_id", ""),
        **more,
    )
    content = _without_secrets(body.model_dump(exclude_none=True))
    return ProblemResponse(content, status, headers=_headers(status, retry_after))


def _without_secrets(value: Any) -> Any:
    """A problem quotes the client's input, which may contain a key by mistake."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return (
        {name: _without_secrets(item) for name, item in value.items()} if isinstance(value, dict) else value
    )


def _headers(status: int, retry_after: float | None) -> dict[str, str]:
    if status in RETRYABLE:
        # In whole seconds (RFC 9110, 10.2.3), and never too early.
        return {"Retry-After": str(ceil(retry_after or RETRY_AFTER_SECONDS))}
    return {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else {}


# -- handlers --------------------------------------------------------------------------------------


def install(app: FastAPI) -> None:
    """Install handlers that turn every exception of the app into a problem."""
    app.add_exception_handler(SftError, _on_domain_error)
    app.add_exception_handler(OSError, _on_system_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected_error)


async def _on_domain_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SftError)
    kind = next(kind for kind in type(error).__mro__ if kind in STATUS or kind is SftError)
    status = STATUS.get(kind, HTTPStatus.INTERNAL_SERVER_ERROR)
    allowed = error.allowed if isinstance(error, errors.IllegalAction) else None
    return problem(
        request,
        status,
        error.code,
        error.message,
        hint=error.hint,
        errors=error.errors,
        allowed_actions=allowed,
        retry_after=getattr(error, "retry_after", None),
    )


async def _on_system_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error  # a bug
    return await _on_domain_error(request, errors.StorageFull("The disk of the service"))


async def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()[:MAX_ERRORS]
    if any(one["type"] == "json_invalid" for one in found):
        return problem(request, 400, "malformed_json", f"The body is not JSON: {found[0]['ctx']['error']}.")
    if isinstance(error.body, str | bytes) and error.body:
        detail = "The Content-Type of the body is not JSON."
        return problem(
            request, 415, "not_json", detail, hint="Send the header Content-Type: application/json."
        )
    model = _body_model(request)
    invalid = [field for one in found for field in _field_errors(one, error.body, model)]
    unique = list({field.pointer: field for field in invalid}.values())
    return problem(request, 422, "invalid_request", unique[0].detail, hint=unique[0].hint, errors=unique)


def _body_model(request: Request) -> type[BaseModel] | None:
    """Return the model of the route's body: hints suggest the names of its fields."""
    field = getattr(request.scope.get("route"), "body_field", None)
    model = field.field_info.annotation if field else None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _field_errors(error: Mapping[str, Any], body: Any, model: type[BaseModel] | None) -> list[FieldError]:
    source, *location = error["loc"]
    if source == "body":
        here = {**error, "loc": _in_body(location, body, missing=error["type"] == "missing")}
        return field_errors([here], model)
    return field_errors([{**error, "loc": location}], None, prefix=str(source))


def _in_body(location: list[Any], body: Any, *, missing: bool) -> tuple[Any, ...]:
    """Return the part of an error's location that is in the body: pydantic adds names of union members."""
    path: list[Any] = []
    for part in location:
        if (isinstance(body, dict) and part in body) or (
            isinstance(body, list) and isinstance(part, int) and part < len(body)
        ):
            body = body[part]
        elif not missing:
            continue
        path.append(part)
    return tuple(path)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_")
    hint = "The routes are listed under /docs." if status == HTTPStatus.NOT_FOUND else None
    response = problem(request, status, code, f"{status.phrase}.", hint=hint)
    response.headers.update(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(_methods_of(request)) or response.headers["Allow"]
    return response


def _methods_of(request: Request) -> list[str]:
    """Return every method of a path: the router itself names only those of the first matching route."""
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    matching = [path for path in paths if compile_path(path)[0].match(request.url.path)]
    return sorted(method.upper() for path in matching for method in paths[path])


async def _on_unexpected_error(request: Request, error: Exception) -> JSONResponse:
    log.error("request.bug", request_id=request.state.request_id, path=request.url.path, exc_info=error)
    return problem(
        request,
        500,
        "internal_error",
        "Internal server error.",
        hint="Report it with the request_id.",
    )
