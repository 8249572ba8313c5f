"""SAGE Concept Eraser's core: concept erasure for Stable Diffusion that knows no host.

Imports are lazy: torch loads on use.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_WHERE = {
    "ErasureSpec": "spec",
    "erase": "cycle.run",
    "Erasure": "cycle.result",
    "Event": "progress",
    "load_model": "models",
    "load_lora": "lora.file",
    "comparison_prompts": "evaluate.suite",
    "SageError": "errors",
    "Cancelled": "errors",
}
__all__ = [
    "Cancelled",
    "Erasure",
    "ErasureSpec",
    "Event",
    "SageError",
    "comparison_prompts",
    "erase",
    "load_lora",
    "load_model",
]


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value
