"""API keys have expiry and last use; an Idempotency-Key belongs to an owner in a project

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_key", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_key", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    _replace_idempotency_keys(
        ["project", "owner", "key"],
        "INSERT INTO idempotency_key (project, owner, key, body_hash, job_id, response, created_at) "
        "SELECT job.project, old.owner, old.key, old.body_hash, old.job_id, old.response, old.created_at "
        "FROM idempotency_key_old AS old JOIN job ON job.id = old.job_id",
    )


def downgrade() -> None:
    # Two projects may have used the same key meanwhile: the row of one project is kept.
    _replace_idempotency_keys(
        ["owner", "key"],
        "INSERT INTO idempotency_key (owner, key, body_hash, job_id, response, created_at) "
        "SELECT owner, key, body_hash, job_id, response, created_at FROM idempotency_key_old AS old "
        "WHERE project = (SELECT min(project) FROM idempotency_key_old AS other "
        "WHERE other.owner = old.owner AND other.key = old.key)",
    )
    with op.batch_alter_table("api_key") as batch_op:
        batch_op.drop_column("last_used_at")
        batch_op.drop_column("expires_at")


def _replace_idempotency_keys(primary_key: list[str], copy: str) -> None:
    """Create the table with another primary key and copy the rows: SQLite cannot alter a primary key."""
    op.rename_table("idempotency_key", "idempotency_key_old")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX idempotency_key_pkey RENAME TO idempotency_key_old_pkey")
    names = [*primary_key, "body_hash", "job_id"]
    op.create_table(
        "idempotency_key",
        *(sa.Column(name, sa.String(), nullable=False) for name in names),
        sa.Column("response", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"]),
        sa.PrimaryKeyConstraint(*primary_key),
    )
    op.execute(copy)
    op.drop_table("idempotency_key_old")
