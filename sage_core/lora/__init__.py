"""LoRA files: the layers they name, the adapter on a model, the file, its metadata."""
