"""`python -m cli` is `sft`."""

from cli.main import app

app()
