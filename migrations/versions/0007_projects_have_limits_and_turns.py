"""A project has limits, and a turn among the projects whose jobs wait

Revision: 0007, after 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "project",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("live_jobs", sa.Integer(), nullable=True),
        sa.Column("waiting_jobs", sa.Integer(), nullable=True),
        sa.Column("gpus", sa.Integer(), nullable=True),
        sa.Column("turn", sa.BigInteger(), nullable=False),
    )
    op.execute("INSERT INTO project (name, turn) SELECT DISTINCT project, 0 FROM job")
    op.create_index("ix_job_project_state", "job", ["project", "state"])


def downgrade() -> None:
    op.drop_index("ix_job_project_state", table_name="job")
    op.drop_table("project")
