"""LoRA files: the same numbers in our loader, in diffusers, and (where one is found) in ComfyUI."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from sage_core import ErasureSpec, SageError, load_lora, load_model
from sage_core.cycle.run import Erasure
from sage_core.diffusion.cost import Cost
from sage_core.diffusion.networks import added_conditions
from sage_core.jobs.names import is_of
from sage_core.lora.adapter import Adapter
from sage_core.lora.file import LoraFile, read_lora, rewrite_metadata
from sage_core.lora.merge import merge_loras
from sage_core.lora.surfaces import surface_layers

PROMPTS = ["a photo of a cat", "a red house"]


def trained(model, surface="both", rank=4, alpha=4.0, seed=0):
    """An adapter with random weights in it, as if trained, rounded as a file will hold it."""
    g = torch.Generator().manual_seed(seed)
    adapter = Adapter.create(surface_layers(model, surface), rank, alpha, g)
    with torch.no_grad():
        for up in adapter.up.values():
            up.copy_(0.3 * torch.randn(up.shape, generator=g))
    adapter.round_(torch.float16)
    return adapter


def save(adapter, model, path, **changes):
    spec = ErasureSpec("cat", **{"rank": 4, **changes}).recipe()
    return Erasure(spec, adapter, [{"total": 0.0}], Cost(), 0.0).save(path, model)


@torch.no_grad()
def noise_of(model):
    torch.manual_seed(1)
    return model.predict_noise(torch.randn(2, 4, 8, 8), torch.tensor([700, 20]), model.encode(PROMPTS))


@pytest.mark.parametrize("surface, alpha", [("text", 4.0), ("cross_attention", 1.5), ("both", 16.0)])
def test_file_gives_back_what_was_trained(family, tmp_path, surface, alpha):
    model = load_model(tiny.original(family))
    before = noise_of(model)
    adapter = trained(model, surface, alpha=alpha)
    after = noise_of(model)
    assert (after - before).abs().max() > 1e-3
    path = save(adapter, model, tmp_path / "x.safetensors", alpha=alpha)
    adapter.remove()
    torch.testing.assert_close(noise_of(model), before)
    loaded = load_lora(model, path)
    torch.testing.assert_close(noise_of(model), after)
    loaded.strength = 0.0
    torch.testing.assert_close(noise_of(model), before)


@pytest.mark.parametrize("surface", ["text", "cross_attention", "both", "unet"])
def test_diffusers_pipeline_draws_the_same(family, tmp_path, surface):
    """`load_lora_weights` lands every layer at the same scale, alpha other than rank included."""
    model = load_model(tiny.folder(family, tmp_path / "m"))
    adapter = trained(model, surface, alpha=2.0)
    save(adapter, model, tmp_path / "x.safetensors", alpha=2.0)
    with torch.no_grad():
        cond, expected = model.encode(PROMPTS), noise_of(model)
    torch.manual_seed(1)
    hidden, drawn = tiny.in_diffusers(
        family.family,
        tmp_path / "x.safetensors",
        PROMPTS,
        torch.randn(2, 4, 8, 8),
        torch.tensor([700, 20]),
        added_conditions(cond, model.pixels),
    )
    torch.testing.assert_close(hidden, cond.hidden, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(drawn, expected, atol=1e-4, rtol=1e-3)


def two_files(model, folder):
    """An erasure of both surfaces and one of the text encoder, of different ranks and alphas."""
    files = []
    for seed, (concept, surface, rank, alpha) in enumerate(
        [("cat", "both", 4, 4.0), ("castle", "text", 2, 3.0)]
    ):
        adapter = trained(model, surface, rank, alpha, seed)
        files.append(
            Erasure(
                ErasureSpec(concept, surface=surface, rank=rank, alpha=alpha).recipe(),
                adapter,
                [],
                Cost(),
                0.0,
            ).save(folder / f"{concept}.safetensors", model)
        )
        adapter.remove()
    return files


@pytest.mark.parametrize("strengths", [None, [0.5, 1.3]])
def test_joined_files_change_the_model_as_the_stack_does(family, tmp_path, strengths):
    model = load_model(tiny.original(family))
    files = two_files(model, tmp_path)
    stack = [load_lora(model, file, s) for file, s in zip(files, strengths or [1.0, 1.0])]
    stacked = noise_of(model)
    for adapter in stack:
        adapter.remove()
    merged = merge_loras(files, tmp_path / "both.safetensors", strengths)
    assert merged.rank == 6
    loaded = load_lora(model, tmp_path / "both.safetensors")
    torch.testing.assert_close(noise_of(model), stacked)
    loaded.remove()
    assert [(s["concept"], s["strength"]) for s in read_lora(tmp_path / "both.safetensors").specs()] == list(
        zip(("cat", "castle"), strengths or [1, 1])
    )


def test_a_joined_file_is_halved_only_where_nothing_is_rounded(sd1, tmp_path):
    cat, castle = two_files(load_model(tiny.original(sd1)), tmp_path)
    merge_loras([cat, cat], tmp_path / "twice.safetensors")
    files = [cat, tmp_path / "twice.safetensors"]
    merge_loras(files, tmp_path / "thrice.safetensors")
    assert len(read_lora(tmp_path / "thrice.safetensors").specs()) == 3, "joined files can be joined again"
    assert {
        t.dtype
        for k, t in load_file(tmp_path / "thrice.safetensors").items()
        if "lora_" in k.split(".", 1)[1]
    } == {torch.float16}
    merge_loras(files, tmp_path / "third.safetensors", [1 / 3, 1.0])
    assert {t.dtype for t in load_file(tmp_path / "third.safetensors").values()} == {torch.float32}


def test_what_cannot_be_joined_is_refused(sd1, tmp_path):
    cat, castle = two_files(load_model(tiny.original(sd1)), tmp_path)
    sdxl = load_model(tiny.original(tiny.make("sdxl")))
    foreign = save(trained(sdxl), sdxl, tmp_path / "foreign.safetensors")
    for files, strengths, words in [
        ([cat], None, "at least two"),
        ([cat, castle], [1.0], "2 files and 1 strengths"),
        ([cat, foreign], None, "different"),
        ([cat, castle], [1.0, float("nan")], "number"),
        ([cat] * 300, None, "rank 1200"),
    ]:
        with pytest.raises(SageError, match=words):
            merge_loras(files, tmp_path / "out.safetensors", strengths)
    assert not (tmp_path / "out.safetensors").exists()
    merge_loras([cat, castle], tmp_path / "out.safetensors")
    with pytest.raises(SageError, match="2 erasures joined"):
        read_lora(tmp_path / "out.safetensors").spec()


def test_keys_are_those_that_hosts_read(family):
    model = load_model(tiny.original(family))
    names = set(surface_layers(model, "both"))
    prefixes = {"sd1": ["lora_te"], "sd2": ["lora_te"], "sdxl": ["lora_te1", "lora_te2"]}[family.family]
    for prefix in prefixes:
        assert f"{prefix}_text_model_encoder_layers_0_self_attn_q_proj" in names
        assert f"{prefix}_text_model_encoder_layers_1_self_attn_out_proj" in names
        assert f"{prefix}_text_model_encoder_layers_0_mlp_fc1" in names
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k" in names
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0" in names
    assert not any("attn1" in n or "_ff_" in n for n in names)


def test_metadata_repeats_the_run_and_names_the_architecture(family, tmp_path):
    model = load_model(tiny.original(family))
    path = save(trained(model), model, tmp_path / "x.safetensors", retain=("dog",))
    file = read_lora(path)
    assert ErasureSpec.from_json(file.spec()).retain == ("dog",)
    wanted = {
        "sd1": "stable-diffusion-v1/lora",
        "sd2": "stable-diffusion-v2-512/lora",
        "sdxl": "stable-diffusion-xl-v1-base/lora",
    }
    assert file.metadata["modelspec.architecture"] == wanted[family.family]
    assert file.metadata["sage.model_sha256"] == model.fingerprint
    assert file.rank == 4


MUST = ("sai_model_spec", "architecture", "implementation", "title", "resolution")  # sai_model_spec 1.0.1


def test_what_the_model_spec_demands_is_there(family, tmp_path):
    """The resolution is the one that was trained at: the model's own, unless another was asked for."""
    model = load_model(tiny.original(family))
    own = save(trained(model), model, tmp_path / "own.safetensors")
    small = save(trained(model), model, tmp_path / "small.safetensors", resolution=256)
    for path, side in ((own, model.pixels), (small, 256)):
        metadata = read_lora(path).metadata
        assert (
            all(metadata.get(f"modelspec.{key}") for key in MUST)
            and metadata["modelspec.resolution"] == f"{side}x{side}"
        )
    joined = merge_loras([small, own], tmp_path / "both.safetensors").metadata
    assert all(joined.get(f"modelspec.{key}") for key in MUST) and joined[
        "modelspec.resolution"
    ] == "{0}x{0}".format(max(model.pixels, 256))


def test_files_from_before_the_resolution_was_written_can_be_joined(sd1, tmp_path):
    files = two_files(load_model(tiny.original(sd1)), tmp_path)
    for file, own in zip(files, ("", "no size")):
        rewrite_metadata(file, {"modelspec.resolution": own})
    assert merge_loras(files, tmp_path / "both.safetensors").metadata["modelspec.resolution"] == "512x512"


def test_a_file_of_an_older_version_is_still_the_same_erasure(sd1, tmp_path):
    """It says nothing of a schedule, since there was one only."""
    model, spec = load_model(tiny.original(sd1)), ErasureSpec("cat", rank=4)
    file = read_lora(save(trained(model), model, tmp_path / "x.safetensors"))
    old = {
        k: v
        for k, v in file.metadata.items()
        if k not in ("modelspec.resolution", "sage.left", "sage.schedule")
    }
    assert is_of(LoraFile(file.layers, old), spec.recipe(), model)


def test_alphas_are_not_rounded(sd1, tmp_path):
    model = load_model(tiny.original(sd1))
    path = save(trained(model, alpha=1 / 3), model, tmp_path / "x.safetensors", alpha=1 / 3)
    alphas = [v.item() for k, v in load_file(path).items() if k.endswith(".alpha")]
    assert alphas == pytest.approx([1 / 3] * len(alphas), abs=1e-7)


def test_a_lora_of_another_architecture_is_refused(tmp_path):
    small, large = load_model(tiny.original(tiny.make("sd1"))), load_model(tiny.original(tiny.make("sdxl")))
    path = save(trained(large), large, tmp_path / "x.safetensors")
    with pytest.raises(SageError, match="do not exist in this Stable Diffusion 1.x"):
        load_lora(small, path)
    path = save(trained(small), small, tmp_path / "y.safetensors")
    with pytest.raises(SageError, match="wide|do not exist"):
        load_lora(load_model(tiny.original(tiny.make("sd2"))), path)


@pytest.mark.parametrize(
    "tensors, words",
    [
        ({}, "not a LoRA|holds no"),
        ({"a.lora_down.weight": torch.zeros(2, 3)}, "do not fit"),
        ({"a.lora_down.weight": torch.zeros(2, 3), "a.lora_up.weight": torch.zeros(3, 5)}, "do not fit"),
        (
            {"a.lora_down.weight": torch.full((2, 3), float("nan")), "a.lora_up.weight": torch.zeros(3, 2)},
            "NaN",
        ),
        ({"unet.up.lora_A.weight": torch.zeros(2, 3)}, "kohya"),
    ],
)
def test_a_damaged_lora_is_refused(tmp_path, tensors, words):
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(SageError, match=words):
        read_lora(tmp_path / "x.safetensors")


def test_a_lora_without_our_spec_says_so(tmp_path):
    save_file(
        {"a.lora_down.weight": torch.zeros(2, 3), "a.lora_up.weight": torch.zeros(3, 2)},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(SageError, match="carries no erasure spec"):
        read_lora(tmp_path / "x.safetensors").spec()


CHECK_IN_COMFY = """
import json, sys
path, source = sys.argv[1:3]
sys.argv = sys.argv[:1] + ["--cpu"]
sys.path.insert(0, ".")
import comfy.options
comfy.options.enable_args_parsing()
import comfy.lora, comfy.lora_convert, comfy.sd, comfy.utils
model, clip = comfy.sd.load_checkpoint_guess_config(source, output_vae=False)[:2]
keys = comfy.lora.model_lora_keys_unet(model.model, {})
keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, keys)
lora = comfy.lora_convert.convert_lora(comfy.utils.load_torch_file(path))
loaded = comfy.lora.load_lora(lora, keys)
new_model, new_clip = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
applied = len(new_model.patches) + len(new_clip.patcher.patches)
print("RESULT" + json.dumps({"loaded": len(loaded), "applied": applied}))
"""


def comfy() -> tuple[Path, str] | None:
    """A ComfyUI checkout and a Python that can import it, or None."""
    root = Path(os.environ.get("COMFYUI_PATH", Path.home() / "ComfyUI"))
    if not (root / "comfy" / "lora.py").exists():
        return None
    for python in (root / ".venv" / "bin" / "python", root / "venv" / "bin" / "python", Path(sys.executable)):
        if (
            python.exists()
            and subprocess.run(
                [python, "-c", "import torchvision, torchsde, aiohttp"], capture_output=True
            ).returncode
            == 0
        ):
            return root, str(python)
    return None


@pytest.mark.skipif("SAGE_LONG" not in os.environ, reason="gigabytes and a minute: set SAGE_LONG=1")
@pytest.mark.parametrize("shape", ["thin_sd1", "thin_sd2", "thin_sdxl", "full_sd1"])
def test_every_key_of_a_checkpoint_that_hosts_recognise_lands_in_comfyui(tmp_path, shape):
    """The bundled model's keys are tried in every run (tests/comfy)."""
    found = comfy()
    if found is None:
        pytest.skip(
            "NO COMFYUI FOUND: check it out at ~/ComfyUI (or set COMFYUI_PATH) with its environment in .venv;"
            " keys were not tried in the real host"
        )
    import full_shape

    root, python = found
    source = getattr(full_shape, shape)(tmp_path / "m.safetensors")
    model = load_model(source, dtype=torch.float16)
    path = save(trained(model, "both"), model, tmp_path / "x.safetensors")
    run = subprocess.run(
        [python, "-c", CHECK_IN_COMFY, str(path), str(source)], capture_output=True, text=True, cwd=root
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, run.stderr[-2000:]
    result = json.loads(lines[0].removeprefix("RESULT"))
    assert result["loaded"] == result["applied"] == len(read_lora(path).layers)
