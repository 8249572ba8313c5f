"""The bundled model is recognised by its token embeddings; a model that only has its shape is unknown."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sage_core import ErasureSpec, SageError, erase, load_model
from sage_core.cli import reading
from sage_core.demo import DEMO, recognise
from sage_core.diffusion import load, names
from sage_core.diffusion.architecture import FAMILIES, UNET
from sage_core.diffusion.knowledge import UNKNOWN
from sage_core.evaluate.measure import evaluate, load_judge, measure_original
from sage_core.memory.plan import fit
from sage_core.prompts.words import candidates

CPU = torch.device("cpu")
RECIPE = ErasureSpec("dog").recipe()


def checkpoint(model) -> dict[str, torch.Tensor]:
    """A model as ComfyUI's graph holds it: one state dict in SD 1.x' layout."""
    encoder = names.with_text_model(model.text.encoders[0].state_dict())
    prefix = FAMILIES["sd1"].text_prefixes[0]
    return names.unet_to_original(model.unet.state_dict(), model.unet.config, UNET) | {
        prefix + k: v for k, v in encoder.items()
    }


def retrained(sd: dict[str, torch.Tensor], seed: int = 1) -> dict[str, torch.Tensor]:
    """The same shapes with every tensor moved a little, as in a model that was trained on its own."""
    g = torch.Generator().manual_seed(seed)
    return {
        k: (
            v + 0.02 * v.float().std(correction=0) * torch.randn(v.shape, generator=g)
            if v.is_floating_point()
            else v
        )
        for k, v in sd.items()
    }


def with_upstream_loras(sd: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The text encoder's linear layers and the UNet's K and V changed, as behind another erasure."""
    touched = ("attn2.to_k.weight", "attn2.to_v.weight", "_proj.weight", "fc1.weight", "fc2.weight")
    moved = retrained({k: v for k, v in sd.items() if k.endswith(touched)})
    assert len(moved) > 20
    return sd | moved


@pytest.fixture(scope="module")
def bundled():
    return load_model("demo")


@pytest.fixture(scope="module")
def stranger(bundled):
    """Of the bundled model's shape, trained separately."""
    return load_model(retrained(checkpoint(bundled)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_bundled_model_is_recognised_as_file_and_out_of_a_graph_in_every_precision(bundled, dtype):
    for source in (
        "demo",
        DEMO,
        checkpoint(bundled),
        {k: v.to(dtype) for k, v in checkpoint(bundled).items()},
    ):
        model = load_model(source, dtype=dtype)
        assert model.knowledge is bundled.knowledge is not UNKNOWN and model.pixels == 64


def test_it_is_still_recognised_behind_other_loras(bundled):
    model = load_model(with_upstream_loras(checkpoint(bundled)))
    assert model.fingerprint != bundled.fingerprint
    assert model.knowledge is bundled.knowledge and model.pixels == 64


def test_the_core_alone_knows_nothing_until_the_model_is_recognised():
    model = load.load_model(DEMO)
    assert model.knowledge is UNKNOWN
    assert recognise(model) is model and model.knowledge is not UNKNOWN


def test_a_model_of_the_same_shape_is_an_unknown_one(stranger, bundled):
    assert [p.shape for p in stranger.unet.parameters()] == [p.shape for p in bundled.unet.parameters()]
    assert stranger.knowledge is UNKNOWN and load_judge(stranger) is None and load_judge(bundled) is not None
    assert stranger.pixels == 512, "an SD 1.x checkpoint does not say its size"
    assert candidates(stranger) == candidates(bundled), "a vocabulary judges and gives the eraser nothing"
    assert fit(bundled, RECIPE, CPU) is None and fit(stranger, RECIPE, CPU) is not None


def test_its_size_is_the_one_in_its_own_configuration(tmp_path):
    folder = shutil.copytree(DEMO, tmp_path / "m")
    weights = folder / "text_encoder" / "model.safetensors"
    save_file(retrained(load_file(weights)), weights)
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text().replace('"sample_size": 8', '"sample_size": 16'))
    model = load_model(folder)
    assert model.knowledge is UNKNOWN and model.pixels == 128


def test_any_concept_may_be_erased_from_an_unknown_model_and_nothing_is_judged(stranger, bundled):
    spec = ErasureSpec("xylophone", method="uce")
    with pytest.raises(
        SageError, match="bundled model cannot draw 'xylophone'; choose one of its 117 concepts"
    ):
        erase(bundled, spec)
    erasure = erase(stranger, spec)
    try:
        bare = ErasureSpec("xylophone", resolution=64)
        stranger.pixels, pixels = 64, stranger.pixels
        stranger.vae = bundled.vae
        with erasure.adapter.off():
            base = measure_original(stranger, bare, 1)
        report = evaluate(stranger, base, bare, erasure.cost, 0.0, {}, 1).report
        stranger.pixels, stranger.vae = pixels, None
    finally:
        erasure.adapter.remove()
    assert reading._measured_lines(report) == []
    assert base.latents is None and set(report["before"].values()) == set(report["after"].values()) == {None}
