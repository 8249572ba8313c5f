"""What stays: each term returns a loss, or rows for the step's one UNet batch."""
