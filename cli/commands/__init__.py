"""The commands of `sft` that use a running service: one module per resource."""
