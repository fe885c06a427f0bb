"""All code that needs torch or Megatron-Bridge. No module outside this package imports them."""
