"""What the papers say, once each: systems, settings, printed numbers."""
