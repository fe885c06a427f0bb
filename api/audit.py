"""Audit entries of requests: where each comes from, and those that were rejected or repeated an earlier one.

A change adds its own entry, in its transaction (worker/auth/audit.py).
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from threading import BoundedSemaphore

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainer.config.secret_patterns import redacted
from worker.auth import audit
from worker.auth.audit import OK, AuditAction, RequestOrigin
from worker.telemetry.logging import logger

# Each route that changes something, by name.
ACTIONS = {
    "create_key": AuditAction.KEY_CREATE,
    "revoke_key": AuditAction.KEY_REVOKE,
    "create_job": AuditAction.JOB_CREATE,
    "cancel_job": AuditAction.JOB_CANCEL,
    "pause_job": AuditAction.JOB_PAUSE,
    "resume_job": AuditAction.JOB_RESUME,
    "retry_job": AuditAction.JOB_RETRY,
    "export_checkpoint": AuditAction.JOB_EXPORT,
    "set_limits": AuditAction.LIMITS_CHANGE,
    "reset_limits": AuditAction.LIMITS_CHANGE,
}
TARGETS = ("job_id", "key_id", "project")
MAX_TARGET = 64
MAX_WAITING = 50
WAIT_SECONDS = 1.0
"""A response waits so long for its entry, which is written even if that takes longer."""

log = logger(__name__)

# One thread: entries of rejected requests never occupy the threads of other requests.
_writer = ThreadPoolExecutor(1, thread_name_prefix="audit")
_waiting = BoundedSemaphore(MAX_WAITING)


class AuditTrail:
    """Tells the audit log where a request comes from; adds the entry of a request that changed nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with audit.request(_address(scope), scope["state"]["request_id"]) as origin:

            async def send_audited(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await _note(scope, origin, message["status"])
                await send(message)

            try:
                await self.app(scope, receive, send_audited)
            except Exception:
                await _note(scope, origin, HTTPStatus.INTERNAL_SERVER_ERROR)
                raise


def _address(scope: Scope) -> str | None:
    """The client's address; from X-Forwarded-For where SFT_FORWARDED_ALLOW_IPS names the proxy."""
    client = scope.get("client")
    return str(client[0])[:MAX_TARGET] if client else None


async def _note(scope: Scope, origin: RequestOrigin, status: int) -> None:
    """Add the entry of a request with a valid key that should have changed something, and did not."""
    action = ACTIONS.get(getattr(scope.get("route"), "name", ""))
    if action is None or origin.caller is None or origin.is_recorded:
        return
    origin.is_recorded = True
    code = scope["state"].get("problem", "internal_error")
    outcome = code if status >= HTTPStatus.BAD_REQUEST else OK
    if not _waiting.acquire(blocking=False):
        log.warning("audit.not_noted", action=action, outcome=outcome, reason="too many are waiting")
        return
    writing = asyncio.get_running_loop().run_in_executor(
        _writer, _write, origin, action, _target(scope), outcome
    )
    await asyncio.wait({writing}, timeout=WAIT_SECONDS)


def _target(scope: Scope) -> str | None:
    given = scope.get("path_params", {})
    found = next((given[name] for name in TARGETS if name in given), None)
    return redacted(str(found))[:MAX_TARGET] if found is not None else None


def _write(origin: RequestOrigin, action: AuditAction, target: str | None, outcome: str) -> None:
    try:
        audit.note(origin, action, target, outcome)
    except Exception as error:  # whatever it is, the client has its answer
        log.warning("audit.not_noted", action=action, outcome=outcome, reason=str(error))
    finally:
        _waiting.release()
