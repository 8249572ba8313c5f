"""ComfyUI's entry into the pack.

Nothing else belongs here: the product is `sage_core`, the nodes are in `nodes`.
"""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
