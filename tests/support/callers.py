"""Callers for tests."""

from worker.auth.roles import Caller, Role

ANNA = Caller(name="anna", project="default", role=Role.ADMIN)
