"""Store the origin of an attempt, and the estimated start of a queued job

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("estimated_start", sa.DateTime(timezone=True), nullable=True))
    op.add_column("attempt", sa.Column("submission", sa.Integer(), nullable=True))
    op.add_column("attempt", sa.Column("origin", sa.String(), nullable=False, server_default="created"))
    # Before this revision all later attempts were retries.
    op.execute("UPDATE attempt SET origin = 'retried' WHERE number > 1")
    with op.batch_alter_table("attempt") as batch_op:
        batch_op.alter_column("origin", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("attempt") as batch_op:
        batch_op.drop_column("origin")
        batch_op.drop_column("submission")
    with op.batch_alter_table("job") as batch_op:
        batch_op.drop_column("estimated_start")
