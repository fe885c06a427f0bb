"""Everything that needs torch or Megatron-Bridge. Nothing outside of this room imports them."""
