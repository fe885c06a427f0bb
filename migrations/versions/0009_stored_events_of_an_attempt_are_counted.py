"""Stored events of an attempt are counted: their number has a limit

Revision: 0009, after 0008.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COUNTS = ("events_stored", "events_dropped")


def upgrade() -> None:
    for name in COUNTS:
        op.add_column("attempt", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("attempt") as batch_op:
        for name in COUNTS:
            batch_op.drop_column(name)
