"""The command line: sage-erase demo | erase | batch | evaluate | bench | generate | merge | inspect |
methods | panel.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from ..errors import Cancelled, SageError
from ..progress import escape_unprintable
from .arguments import parser

# The module in which each command is.
MODULES = {
    "demo": "erasing",
    "erase": "erasing",
    "batch": "erasing",
    "domain": "searching",
    "evaluate": "measuring",
    "bench": "measuring",
    "generate": "measuring",
    "merge": "reading",
    "inspect": "reading",
    "methods": "reading",
    "panel": "serving",
}


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed with one sentence on standard error or a line for every claim that does
    not hold, 2 usage, 130 interrupted.
    """
    escape_unprintable()
    typed = [_text(a) for a in (sys.argv[1:] if argv is None else map(str, argv))]
    args = parser().parse_args(typed)
    args.typed = typed
    _quiet_libraries()
    with _interrupt() as interrupted:
        try:
            result = command_named(args.command)(args)
            _print_result(args, result)
            return 1 if result.get("holds") is False else 0  # a claim of --require
        except SageError as error:
            print(f"sage-erase: {error}", file=sys.stderr)
            return 1
        except BrokenPipeError:  # the reader of our output has gone, as `head` does
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (Python flushes it once more at its end)
            return 1
        except BaseException as error:
            # Ctrl-C within the import of a library ends as whatever that library makes of it.
            if not interrupted and not isinstance(error, (KeyboardInterrupt, Cancelled)):
                raise
            print(
                "sage-erase: interrupted; nothing was left half-written (erase --resume continues from the"
                " last saved state).",
                file=sys.stderr,
            )
            return 130


def command_named(name: str) -> Callable[[argparse.Namespace], dict]:
    """The function behind a command. Its module, and with it torch, is loaded now."""
    module = importlib.import_module(f".{MODULES[name]}", __package__)
    return getattr(module, f"run_{name}")


def console() -> int:
    """main, as all that a process does: what is done stays done, also where Ctrl-C comes while Python takes
    its leave.
    """
    status = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return status


def _text(argument: str) -> str:
    """An argument that Python could not read in the terminal's encoding is tried as UTF-8."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


def _print_result(args, result: dict) -> None:
    """The machine-readable form, to where it was asked for."""
    if not result:  # one process of several, of which the first speaks for all
        return
    if args.json is True:
        # Windows' pipes are often not in UTF-8.
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        print(json.dumps(result, indent=1, ensure_ascii=not unicode))
    elif args.json:
        from ..files import write_text
        from .common import output_file

        write_text(output_file(args.json, ".json"), json.dumps(result, indent=1, ensure_ascii=False))


@contextlib.contextmanager
def _interrupt() -> Iterator[list]:
    """Inside, Ctrl-C is KeyboardInterrupt as ever, and it is known that there was one: the list is no longer
    empty.
    """
    seen: list = []
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield seen
        return

    def note(number, frame):
        seen.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _quiet_libraries() -> None:
    import logging

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
