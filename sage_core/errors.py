"""The exceptions that a user is meant to read."""


class SageError(Exception):
    """A mistake or a limit that one sentence explains: cause, value seen, what to do.

    Never shown with a traceback.
    """


class OutOfMemory(SageError):
    """Training took more memory than there was.

    What was saved of the run is still there: it may go on in a leaner way.
    """


class Cancelled(Exception):
    """Raised inside the cycle when the caller asked it to stop. Nothing is left at the final name."""


def shown(value: object) -> str:
    """A value of any kind, for a sentence: short, and on one line."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(error: BaseException) -> str:
    """What a library said, on one line."""
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or this computer had no memory left; CPUs and Apple's GPUs say so in words only."""
    import torch

    words = ("out of memory", "not enough memory", "can't allocate memory", "unable to allocate")
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(w in str(error).lower() for w in words)
    )
