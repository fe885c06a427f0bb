"""Store failure and resources with each attempt: a retry may change those of the job

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
    # Before this revision a job did not change between attempts; its failure was that of the last attempt.
    op.execute(
        "UPDATE attempt SET resources = (SELECT resources FROM job WHERE job.id = attempt.job_id), "
        "failure = (SELECT failure FROM job WHERE job.id = attempt.job_id AND job.attempt = attempt.number)"
    )


def downgrade() -> None:
    with op.batch_alter_table("attempt") as batch_op:
        batch_op.drop_column("resources")
        batch_op.drop_column("failure")
