"""What researchers run: methods compared on the bundled model."""
