"""What the commands share: options as fields, where files go, the device, the model."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import SageError


def given(args) -> dict:
    """The same as fields of a spec."""
    names = (
        "method",
        "surface",
        "faithful",
        "steps",
        "rank",
        "alpha",
        "learning_rate",
        "eta",
        "resolution",
        "seed",
        "kind",
        "search",
        "becomes",
    )
    check = None if args.check is None else args.check == "pull"
    values = {name: getattr(args, name) for name in names}
    return values | {"exclude": tuple(args.exclude), "check": check}


def say(args, text: str) -> None:
    if args.json is not True:
        print(text)


def check_images(count: int, option: str = "--images") -> None:
    """Raises SageError for a number of pictures a cell that cannot be drawn."""
    if not 1 <= count <= 10_000:
        raise SageError(f"{option} is from 1 to 10000, not {count}.")


def say_claims(args, results: list[dict], concept: str = "") -> None:
    """A line for every claim of --require; what failed goes to standard error. concept: of several."""
    for result in results:
        line = f"{concept}: {result['sentence']}" if concept else result["sentence"]
        if result["holds"]:
            say(args, line)
        else:
            print(line, file=sys.stderr)


def say_kind(progress, model, spec) -> None:
    """Report a guess of what the concept is."""
    if taken := spec.taken_as(model.knowledge.styles):
        progress(f"{spec.concept!r}: {taken}")


def device_of(name: str):
    """The torch device of that name; under `accelerate launch`, this process's own."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from ..jobs.batch import process_state

        return process_state(cpu=name == "cpu").device
    return torch.device(_device_name(name))


def _device_name(name: str) -> str:
    import torch

    if name != "auto":
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError) as error:
            raise SageError(
                f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}); use cpu or auto."
            ) from error
        return name
    mps = getattr(torch.backends, "mps", None)
    return "cuda" if torch.cuda.is_available() else "mps" if mps is not None and mps.is_available() else "cpu"


def load(args, wanted, device=None):
    """The model in the precision for the wanted device, on it unless another is given."""
    import torch

    from ..memory.plan import frozen_dtype
    from ..models import load_model

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.get(
        args.precision
    ) or frozen_dtype(wanted)
    return load_model(args.model, device or wanted, dtype, args.prediction)


def output_file(name: str, suffix: str) -> Path:
    """A file the user names: an absolute path as it is, a relative one inside the current folder."""
    from ..files import output_path

    path = Path(name)
    if path.is_absolute():
        return output_path(path.parent, path.name, suffix)
    return output_path(Path.cwd(), name, suffix)


def output_folder(name: str) -> Path:
    """The same for a folder."""
    from ..files import output_path

    if Path(name).is_absolute():
        return Path(name)
    # Shells complete a folder with its separator.
    return output_path(Path.cwd(), name.rstrip("/\\") or name, "")
