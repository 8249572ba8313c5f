"""ComfyUI's entry into the pack. Nothing else belongs here: the product is `sage_core`, the nodes are in `nodes`."""
