"""Exit codes of the batch script beside those of the launcher (sysexits.h)."""

CLAIMED = 75
"""Another submission has the attempt. Of submit.sh: an earlier try may have reached the scheduler."""
UNPREPARED = 78
"""The container image is not there."""
NO_SECRETS = 66
"""The file of the secrets is gone."""
