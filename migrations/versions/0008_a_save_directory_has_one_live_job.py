"""A job stores where it saves: a save directory belongs to one live job

Revision: 0008, after 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("save_directory", sa.Text(), nullable=True))
    job = sa.table("job", sa.column("id"), sa.column("config", sa.JSON()), sa.column("save_directory"))
    saves = job.c.config["checkpoint"]["save"].as_string()
    op.execute(job.update().values(save_directory=saves))


def downgrade() -> None:
    with op.batch_alter_table("job") as batch_op:
        batch_op.drop_column("save_directory")
