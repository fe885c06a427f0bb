"""The migrations lead up and down, and to the models, on both databases."""

from alembic import command
from sqlalchemy import create_engine, inspect
from sqlmodel import SQLModel

from worker import models, schema


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names - {"alembic_version"}


def test_up_and_down_and_up_again(database_url: str) -> None:
    schema.upgrade(database_url)
    assert tables(database_url) == set(SQLModel.metadata.tables)
    schema.upgrade(database_url)  # nothing is left to do
    schema.downgrade(database_url)
    assert tables(database_url) == set()
    schema.upgrade(database_url)
    assert tables(database_url) == set(SQLModel.metadata.tables)


def test_models_and_migrations_agree(database_url: str) -> None:
    assert models.Job.__tablename__ in SQLModel.metadata.tables
    schema.upgrade(database_url)
    command.check(schema.alembic_config(database_url))  # raises where a migration is missing
