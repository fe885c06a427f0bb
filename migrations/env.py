"""Alembic's environment: the models of worker/db, the database of worker/settings.py."""

from alembic import context
from sqlmodel import SQLModel

import worker.db.models  # noqa: F401  (registers the tables)
from worker.db.session import build_engine
from worker.settings import get_settings


def run() -> None:
    url = context.config.get_main_option("sqlalchemy.url") or get_settings().sql_url
    engine = build_engine(url).execution_options(sft_writing=True)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,
            render_as_batch=True,
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
