"""Names of the files by which a run and the service meet: docs/job-directory.md."""

CLAIM = "claim"
END = "end.json"
EVENTS = "events.jsonl"
EXTERNAL_ID = "external_id"
IMPORT = "import"
SECRETS = "secrets.sh"
STOP = "stop"
