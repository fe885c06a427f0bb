"""The `sft` command."""
