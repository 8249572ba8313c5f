"""The exceptions that a user is meant to read."""


class SageError(Exception):
    """A mistake or a limit that one sentence explains: cause, value seen, what to do. Never shown with a traceback."""


class OutOfMemory(SageError):
    """Training took more memory than there was. What was saved of the run is still there: it may go on in a leaner way."""


class Cancelled(Exception):
    """Raised inside the cycle when the caller asked it to stop. Nothing is left at the final name."""
