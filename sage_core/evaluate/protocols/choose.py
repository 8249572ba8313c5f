"""A protocol by its name on the command line: imagenette, styles, i2p=FILE."""

from __future__ import annotations

from ...errors import SageError, shown
from ..lists import read_list
from .base import Protocol
from .classes import Classes
from .i2p import I2P

FILES = {"imagenette": "imagenette", "styles": "artists"}
NAMES = "imagenette, styles and i2p=FILE"


def open_protocol(argument: str) -> Protocol:
    """NAME or NAME=FILE; with a file, imagenette and styles take its classes, or its prompts and labels.

    Raises SageError for an unknown protocol, and for a file that cannot be used.
    """
    name, _, file = argument.partition("=")
    if name == "i2p":
        if not file:
            raise SageError(
                "The protocol i2p needs the published table of prompts, which is not in here; name"
                " your copy of it: i2p=FILE."
            )
        return I2P(read_list(f"i2p={file}"))
    if name not in FILES:
        raise SageError(f"There is no protocol {shown(argument)}; the protocols are {NAMES}.")
    own = Classes.read(name, FILES[name])
    return own.of_file(file) if file else own
