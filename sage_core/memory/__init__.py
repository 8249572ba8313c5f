"""How an erasure fits into the memory that is there."""
