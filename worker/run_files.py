"""Names of the files by which a run and the service meet: docs/job-directory.md."""

CLAIM = "claim"
END = "end.json"
EVENTS = "events.jsonl"
STOP = "stop"
