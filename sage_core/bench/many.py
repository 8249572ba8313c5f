"""What many erasures from one model cost, against as many runs of their own:

`python -m sage_core.bench.many --out DIR [--method rece]`.

On the bundled model, whole processes from start to end. A run of its own reads the model, its libraries and
the kept words every time; `sage-erase batch` does so once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..demo.vocabulary import BUNDLED
from ..files import write_text
from . import measured_plots
from .plots import draw


def seconds(*arguments: str) -> float:
    """Of a whole process in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "jobs.txt").write_text(
            "\n".join(BUNDLED.names[: int(arguments[-1])]), encoding="utf-8"
        )
        command = [sys.executable, "-m", "sage_core", *arguments[:-1], "--no-preview", "--device", "cpu"]
        began = time.monotonic()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="rece")
    parser.add_argument(
        "--counts", default="1,10,100", help="of concepts (at most what the bundled model draws)"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    own = min(
        seconds("erase", "demo", "--concept", BUNDLED.names[0], "--method", args.method, "0")
        for _ in range(3)
    )
    result = {"method": args.method, "one run of its own": round(own, 2), "batch": {}}
    for count in map(int, args.counts.split(",")):
        taken = seconds("batch", "demo", "jobs.txt", "--method", args.method, str(count))
        result["batch"][count] = {
            "seconds": round(taken, 2),
            "a concept": round(taken / count, 2),
            "of as many runs": round(taken / (count * own), 3),
        }
    write_text(args.out / f"many-{args.method}.json", json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
    print(draw(measured_plots.many, result, args.out / f"many-{args.method}.png"))


if __name__ == "__main__":
    main()
