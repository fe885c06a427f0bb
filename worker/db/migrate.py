"""Brings the database to the schema of this version."""

from alembic import command
from alembic.config import Config

from worker.db.session import translated
from worker.settings import PROJECT_ROOT


def alembic_config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(PROJECT_ROOT / "migrations"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Apply the migrations up to a revision that have not been applied. Raises ServiceUnavailable."""
    with translated():
        command.upgrade(alembic_config(url), revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Take the migrations back down to a revision."""
    command.downgrade(alembic_config(url), revision)
