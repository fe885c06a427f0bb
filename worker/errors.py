"""Every error of the engine. api/problems.py maps each to its HTTP status.

SftError
+-- Misconfigured         the operator has to change a setting
+-- NotFound              no such job, attempt, preset, cluster ...
+-- Gone                  it was here, and was removed when it expired
+-- InvalidSpec           the request's content is wrong: carries findings
+-- IllegalAction         not in this state: carries the allowed actions
+-- IdempotencyMismatch   the key was used with another body
+-- SaveDirectoryInUse    another live job saves there
+-- PlanDrift             the plan is no longer the one that the client saw
+-- CheckpointChanged     its files are not those that were saved
|   +-- CheckpointNotServed   its files lie behind a link, or below no root of the profile
+-- NotExportable         this checkpoint is no Megatron checkpoint
+-- RangeInvalid          an offset, range or cursor that makes no sense
+-- Unauthenticated       no key, or one that is not valid
+-- Forbidden             the key is not for this
+-- TooManyRequests       the key, or the address, has used up its rate: try again later
|   +-- TooManyWaitingJobs    of this project
|   +-- TooManyOpenRequests   streams, long polls and downloads of this key
+-- ServiceUnavailable    database or broker cannot be reached: try again
|   +-- StorageFull           the disk is full, or over its quota: free space, then try again
+-- BackendError
    +-- BackendUnavailable    the scheduler cannot be reached: try again
    |   +-- ClusterRemoved        its profile is no longer in the configuration
    |   +-- CredentialsRefused    it does not accept the service's credentials: renew them
    +-- NotReachable          the service has no way to these files
    +-- SubmissionRejected    the scheduler rejected it; the message is the scheduler's
"""

from collections.abc import Sequence

from pydantic import BaseModel


class FieldError(BaseModel):
    """One error of a request, and where it is."""

    pointer: str
    """JSON pointer into the body (RFC 6901), or `query/NAME`, `header/NAME`; behind `job/`, into the job."""
    code: str
    detail: str
    hint: str | None = None


class SftError(Exception):
    """Base of all errors of the engine: what is wrong, and what to do."""

    code = "error"

    def __init__(self, message: str, *, hint: str | None = None, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.errors = list(errors)


class Misconfigured(SftError):
    code = "misconfigured"


class NotFound(SftError):
    code = "not_found"


class Gone(SftError):
    code = "gone"


class InvalidSpec(SftError):
    code = "invalid_spec"


class IllegalAction(SftError):
    """The action is not possible in the job's state; `allowed` lists those that are."""

    code = "illegal_action"

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        actions = ", ".join(allowed) or "none"
        super().__init__(message, hint=f"Allowed now: {actions}.")
        self.allowed = list(allowed)


class IdempotencyMismatch(SftError):
    code = "idempotency_key_reused"


class SaveDirectoryInUse(SftError):
    code = "save_directory_in_use"


class PlanDrift(SftError):
    code = "plan_drift"


class CheckpointChanged(SftError):
    code = "checkpoint_changed"


class CheckpointNotServed(CheckpointChanged):
    """The service does not open the files, whether or not they are complete."""


class NotExportable(SftError):
    code = "not_exportable"


class RangeInvalid(SftError):
    code = "range_invalid"


class Unauthenticated(SftError):
    code = "unauthenticated"


class Forbidden(SftError):
    code = "forbidden"


class TooManyRequests(SftError):
    """A limit was reached that will have room again. retry_after: seconds until the request may succeed."""

    code = "rate_limited"

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class TooManyWaitingJobs(TooManyRequests):
    code = "too_many_waiting_jobs"


class TooManyOpenRequests(TooManyRequests):
    code = "too_many_open_requests"


class ServiceUnavailable(SftError):
    code = "service_unavailable"


class StorageFull(ServiceUnavailable):
    """The service cannot store a change. Reads work, and nothing that is stored is lost."""

    code = "storage_full"

    def __init__(self, what: str) -> None:
        hint = "Nothing was changed. Try again when the operator has freed space."
        super().__init__(f"{what} has no space left.", hint=hint)


class BackendError(SftError):
    code = "backend_error"


class BackendUnavailable(BackendError):
    """The cluster does not answer. retry_after: seconds to wait before the next call, if it gave them."""

    code = "backend_unavailable"

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class CredentialsRefused(BackendUnavailable):
    code = "credentials_refused"


class ClusterRemoved(BackendUnavailable):
    code = "cluster_removed"


class NotReachable(BackendError):
    code = "not_reachable"


class SubmissionRejected(BackendError):
    code = "scheduler_rejected"
