"""An attempt keeps its failure and its resources: a retry may change the job's

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempt", sa.Column("failure", sa.JSON(), nullable=True))
    op.add_column("attempt", sa.Column("resources", sa.JSON(), nullable=True))
    # Until now nothing of a job changed between its attempts, and its failure was that of the last one.
    op.execute(
        "UPDATE attempt SET resources = (SELECT resources FROM job WHERE job.id = attempt.job_id), "
        "failure = (SELECT failure FROM job WHERE job.id = attempt.job_id AND job.attempt = attempt.number)"
    )


def downgrade() -> None:
    with op.batch_alter_table("attempt") as batch_op:
        batch_op.drop_column("resources")
        batch_op.drop_column("failure")
