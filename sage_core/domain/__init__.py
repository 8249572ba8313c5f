"""What else means the concept, found in the model itself, and what is close to it and stays."""
