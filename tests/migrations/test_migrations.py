"""The migrations upgrade, downgrade and match the models, on both databases."""

from alembic import command
from sqlalchemy import MetaData, create_engine, inspect
from sqlmodel import Session, SQLModel

from worker.clock import utcnow
from worker.db import migrate, models


def tables(url: str) -> set[str]:
    engine = create_engine(url)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names - {"alembic_version"}


def test_up_and_down_and_up_again(database_url: str) -> None:
    migrate.upgrade(database_url)
    assert tables(database_url) == set(SQLModel.metadata.tables)
    migrate.upgrade(database_url)  # repeated: nothing to do
    migrate.downgrade(database_url)
    assert tables(database_url) == set()
    migrate.upgrade(database_url)
    assert tables(database_url) == set(SQLModel.metadata.tables)


def test_earlier_attempts_get_resources_and_the_last_its_failure(database_url: str) -> None:
    migrate.upgrade(database_url, "0002")
    engine = create_engine(database_url)
    old = MetaData()
    old.reflect(engine)
    failure, resources = {"class": "oom"}, {"nodes": 1, "gpus_per_node": 2, "time_limit_minutes": 3}
    made = models.Job(
        name="a", owner="a", project="a", spec={}, config={}, plan_hash="", cluster="local", backend="local",
        attempt=2, failure=failure, resources=resources,
    )  # fmt: skip
    with engine.begin() as connection:
        columns = {name: value for name, value in made.model_dump().items() if name in old.tables["job"].c}
        connection.execute(old.tables["job"].insert().values({**columns, "state": "FAILED"}))
        for number in (1, 2):
            attempt = {"job_id": made.id, "number": number, "created_at": utcnow(), "events_offset": 0}
            connection.execute(old.tables["attempt"].insert().values(attempt))
    migrate.upgrade(database_url)
    with Session(engine) as session:
        attempts = [session.get_one(models.Attempt, (made.id, number)) for number in (1, 2)]
    engine.dispose()
    assert [attempt.failure for attempt in attempts] == [None, failure]
    assert [attempt.resources for attempt in attempts] == [resources, resources]
    assert [attempt.origin for attempt in attempts] == ["created", "retried"]


def test_models_and_migrations_agree(database_url: str) -> None:
    assert models.Job.__tablename__ in SQLModel.metadata.tables
    migrate.upgrade(database_url)
    command.check(migrate.alembic_config(database_url))  # raises if a migration is missing
