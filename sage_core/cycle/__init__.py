"""The cycle of self-check and self-erasure."""
