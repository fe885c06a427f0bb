"""Exit codes of the batch script itself, in addition to those of the launcher (sysexits.h)."""

CLAIMED = 75
"""Another submission has the attempt. From submit.sh: an earlier try may have reached the scheduler."""
UNPREPARED = 78
"""The container image is missing."""
NO_SECRETS = 66
"""The secrets file is missing."""
