"""A job can export another job's checkpoint; a checkpoint has a format

Revision: 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("export_of", sa.JSON(), nullable=True))
    op.add_column("checkpoint", sa.Column("format", sa.String(), nullable=False, server_default="torch_dist"))
    with op.batch_alter_table("checkpoint") as batch_op:
        batch_op.alter_column("format", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("checkpoint") as batch_op:
        batch_op.drop_column("format")
    with op.batch_alter_table("job") as batch_op:
        batch_op.drop_column("export_of")
