"""What the concept becomes: each target returns the noise that the model should predict for it."""
