"""Inputs that the page hides until they are asked for."""

from __future__ import annotations


def advanced(given):
    """Mark an input as advanced.

    ComfyUI 0.3.64 has no `advanced=` argument yet, but passes extra fields on.
    """
    given.extra_dict["advanced"] = True
    return given
