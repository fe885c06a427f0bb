"""An audit log whose entries nobody changes

Revision: 0006, after 0005.

Triggers reject updates, and deletions of entries younger than KEPT_DAYS: SFT_KEEP_AUDIT_DAYS is never less.
SQLite drops the triggers of a table that a later migration rebuilds (batch_alter_table): create them again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

KEPT_DAYS = 30

SQLITE = (
    "CREATE TRIGGER audit_entry_keeps_its_values BEFORE UPDATE ON audit_entry "
    "BEGIN SELECT RAISE(ABORT, 'entries of the audit log cannot be changed'); END",
    "CREATE TRIGGER audit_entry_is_kept BEFORE DELETE ON audit_entry "
    f"WHEN OLD.at > strftime('%Y-%m-%d %H:%M:%f', 'now', '-{KEPT_DAYS} days') "
    "BEGIN SELECT RAISE(ABORT, 'entries of the audit log cannot be deleted before they expire'); END",
)

POSTGRES = (
    "CREATE FUNCTION audit_entry_rejects() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "RAISE EXCEPTION 'entries of the audit log cannot be changed or deleted before they expire'; END $$",
    "CREATE TRIGGER audit_entry_keeps_its_values BEFORE UPDATE ON audit_entry "
    "FOR EACH ROW EXECUTE FUNCTION audit_entry_rejects()",
    "CREATE TRIGGER audit_entry_is_kept BEFORE DELETE ON audit_entry FOR EACH ROW "
    f"WHEN (OLD.at > now() - interval '{KEPT_DAYS} days') EXECUTE FUNCTION audit_entry_rejects()",
    "CREATE TRIGGER audit_entry_is_not_emptied BEFORE TRUNCATE ON audit_entry "
    "EXECUTE FUNCTION audit_entry_rejects()",
)


def upgrade() -> None:
    texts = ("actor", "actor_project", "key_id", "role", "target", "project", "address", "request_id")
    op.create_table(
        "audit_entry",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=name != "actor") for name in texts),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    for name in ("actor", "project", "target"):
        op.create_index(f"ix_audit_entry_{name}_id", "audit_entry", [name, "id"])
    op.create_index("ix_audit_entry_at", "audit_entry", ["at"])
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRES:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("audit_entry")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_entry_rejects")
