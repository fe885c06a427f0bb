"""Idempotency keys: the same request with the same key makes one job, however often it is sent."""

import hashlib
import json
from dataclasses import dataclass
from typing import Self

from sqlmodel import Session

from trainer.config.secret_patterns import holds_secret
from worker.auth.roles import Caller
from worker.db.models import IdempotencyKey, Json
from worker.db.session import reading
from worker.errors import IdempotencyMismatch
from worker.planning.request_guards import rejection
from worker.planning.spec import JobSpec


@dataclass(frozen=True)
class RequestKey:
    """The Idempotency-Key of a request, if it has one, and the hash of the body that it stands for."""

    project: str
    owner: str
    key: str | None
    body_hash: str

    @classmethod
    def of(cls, spec: JobSpec, caller: Caller, key: str | None) -> Self:
        """Return the key of a request. Raises InvalidSpec if the key looks like a secret."""
        if key and holds_secret(key):
            detail = "This Idempotency-Key looks like an API key or token: it is stored as it is."
            raise rejection("header/Idempotency-Key", "secret_in_request", detail, "Use a random text.")
        body = json.dumps(spec.model_dump(mode="json"), sort_keys=True)
        return cls(caller.project, caller.name, key, hashlib.sha256(body.encode()).hexdigest())

    def find(self) -> IdempotencyKey | None:
        """Return the row that an earlier request with this key has left. Raises IdempotencyMismatch."""
        if not self.key:
            return None
        with reading() as session:
            known = session.get(IdempotencyKey, (self.project, self.owner, self.key))
        if known and known.body_hash != self.body_hash:
            raise IdempotencyMismatch(
                "This Idempotency-Key was used with another body.", hint="Use a new key for a new job."
            )
        return known

    def store(self, session: Session, job_id: str, response: Json) -> None:
        """Keep the response for replays, in the transaction that creates the job."""
        if self.key:
            session.add(IdempotencyKey(**vars(self), job_id=job_id, response=response))
