"""What `sft` does on a service that runs somewhere: one module for each kind of thing."""
