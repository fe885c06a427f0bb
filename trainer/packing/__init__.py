"""From chat records to packed data. No torch."""
