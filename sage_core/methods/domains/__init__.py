"""What is erased: each domain returns, at every step, conditionings that still mean the concept."""
