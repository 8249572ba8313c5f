"""The refit: a LoRA keeps what it does to the concept's prompts and loses the rest (lora/refit.py)."""

import pytest
import tiny
import torch

from sage_core import ErasureSpec, load_lora
from sage_core.cli.main import main
from sage_core.cycle.refitting import KEPT, Refit, own_prompts
from sage_core.cycle.result import Erasure
from sage_core.cycle.setup import build_context
from sage_core.diffusion.cost import Cost
from sage_core.errors import SageError
from sage_core.jobs.join import join_for
from sage_core.lora.adapter import Adapter
from sage_core.lora.file import read_lora
from sage_core.lora.merge import merge_loras
from sage_core.lora.refit import PROMPT, RIDGE, heard, moments, refitted, source
from sage_core.lora.surfaces import surface_layers
from sage_core.methods.closed_form.rows import kept_prompts
from sage_core.models import load_model

FIRST = "lora_te_text_model_encoder_layers_0_"


def random_adapter(model, seed: int, size: float = 0.3) -> Adapter:
    """One that changes everything a little."""
    generator = torch.Generator().manual_seed(seed)
    adapter = Adapter.create(surface_layers(model, "both"), 2, 2.0, generator)
    with torch.no_grad():
        for up in adapter.up.values():
            up.copy_(torch.randn(up.shape, generator=generator) * size / up.shape[1] ** 0.5)
    return adapter


def saved(model, concept: str, path, seed: int):
    """A file of an erasure that nothing was trained for."""
    adapter = random_adapter(model, seed)
    spec = ErasureSpec(concept, rank=2, alpha=2.0, method="esd", surface="both")
    try:
        Erasure(spec.recipe(()), adapter, [], Cost(), 0.0).save(path, model)
    finally:
        adapter.remove()
    return path


def moved(model, adapter: Adapter, prompts: list[str]) -> float:
    """How far the adapter moves what the UNet reads of these prompts; mean square."""
    with torch.no_grad():
        now = model.encode(prompts).hidden
        with adapter.off():
            before = model.encode(prompts).hidden
    return (now - before).square().mean().item()


# ---- the equation ----


def test_it_is_the_least_squares_solution():
    """Against a solver that sees the inputs themselves as rows."""
    torch.manual_seed(0)
    down, up = torch.randn(3, 6).double(), torch.randn(5, 3).double()
    own, kept, weight = torch.randn(20, 6).double(), torch.randn(30, 6).double(), 4.0
    g, k = own.T @ own / 20, kept.T @ kept / 30
    ridge = RIDGE * (g + weight * k).diagonal().mean()
    rows = torch.cat([own / 20**0.5, kept * (weight / 30) ** 0.5, ridge.sqrt() * torch.eye(6)])
    wanted = torch.cat([own @ down.T @ up.T / 20**0.5, torch.zeros(36, 5)])
    expected = torch.linalg.lstsq(rows, wanted).solution.T
    torch.testing.assert_close(up @ refitted([heard(down, g)], g, k, weight)[0], expected)


def test_each_of_several_does_on_its_own_inputs_what_it_did():
    """Two concepts on inputs at right angles: neither disturbs the other, and what is kept is left alone."""
    axes = torch.eye(6).double()
    downs = [torch.ones(1, 6).double(), 2 * torch.ones(1, 6).double()]
    own = [torch.outer(axes[i], axes[i]) for i in (0, 1)]
    kept = sum(torch.outer(axes[i], axes[i]) for i in (2, 3, 4, 5))
    first, second = refitted([heard(d, g) for d, g in zip(downs, own)], sum(own), kept, 2.0)
    torch.testing.assert_close(first[0], axes[0], rtol=0.01, atol=0.01)
    torch.testing.assert_close(second[0], 2 * axes[1], rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("layer", "read"),
    [
        (FIRST + "self_attn_q_proj", FIRST + "self_attn_k_proj"),
        (FIRST + "self_attn_v_proj", FIRST + "self_attn_k_proj"),
        (FIRST + "self_attn_out_proj", FIRST + "self_attn_out_proj"),
        (FIRST + "mlp_fc2", None),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k", PROMPT),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q", None),
        ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k", None),
    ],
)
def test_layers_that_read_text_are_refitted(layer, read):
    assert source(layer) == read


def test_moments_are_those_of_what_the_layers_read(demo):
    layers = surface_layers(demo, "both")
    prompts = ["a dog", "a cat on a mat", "a house"]
    found = moments(demo, layers, prompts)
    hidden = demo.encode(prompts).hidden.flatten(0, 1).detach()
    torch.testing.assert_close(found[PROMPT], hidden.T @ hidden / len(hidden), rtol=1e-4, atol=1e-5)
    assert set(found) == {source(name) for name in layers} - {None}


# ---- in a run ----


@pytest.mark.parametrize(("concept", "kind"), [("dog", "thing"), ("pixel art", "style")])
def test_the_concepts_prompts_are_moved_as_before_and_the_others_hardly(demo, concept, kind):
    adapter = random_adapter(demo, 1, 0.1)
    recipe = ErasureSpec(concept, kind=kind).recipe(demo.knowledge.styles)
    context = build_context(demo, recipe, adapter)
    own, kept = own_prompts(context), kept_prompts(context, KEPT)[::5]
    assert all(concept in prompt for prompt in own) and not any(concept in prompt for prompt in kept)
    passes = demo.cost.passes
    before = moved(demo, adapter, own), moved(demo, adapter, kept)
    Refit(context, 4.0, lambda event: None).apply()
    after = moved(demo, adapter, own), moved(demo, adapter, kept)
    adapter.remove()
    assert demo.cost.passes == passes, "it takes no UNet pass"
    assert after[1] < 0.5 * before[1] and after[0] / after[1] > 1.3 * before[0] / before[1]


def test_a_refit_that_was_tried_leaves_the_adapter_as_it_was(demo):
    adapter = random_adapter(demo, 1)
    context = build_context(demo, ErasureSpec("dog").recipe(demo.knowledge.styles), adapter)
    before = {name: down.clone() for name, down in adapter.down.items()}
    with Refit(context, 4.0, lambda event: None).tried():
        assert any(not torch.equal(down, before[name]) for name, down in adapter.down.items())
    assert all(torch.equal(down, before[name]) for name, down in adapter.down.items())
    adapter.remove()


# ---- joined files ----


def test_joined_files_that_are_fitted_disturb_less_than_their_sum(demo, tmp_path):
    files = [saved(demo, c, tmp_path / f"{c}.safetensors", i) for i, c in enumerate(("dog", "castle"))]
    merge_loras(files, tmp_path / "sum.safetensors")
    passes, seen = demo.cost.passes, []
    joined = join_for(demo, files, tmp_path / "fitted.safetensors", on_event=seen.append)
    assert (
        demo.cost.passes == passes
        and joined.rank == 4
        and [s["concept"] for s in joined.specs()]
        == [
            "dog",
            "castle",
        ]
    )
    assert seen[0].phase == "refit" and seen[-1].phase == "done"
    kept = ["a cat", "a tree", "a watercolor of a house", "a fish"]
    figures = []
    for name in ("sum", "fitted"):
        adapter = load_lora(demo, tmp_path / f"{name}.safetensors")
        figures.append(moved(demo, adapter, kept))
        adapter.remove()
    assert figures[1] < 0.5 * figures[0]


def test_a_joined_file_can_be_joined_again(demo, tmp_path):
    first = [saved(demo, c, tmp_path / f"{c}.safetensors", i) for i, c in enumerate(("dog", "castle"))]
    merge_loras(first, tmp_path / "two.safetensors")
    third = saved(demo, "owl", tmp_path / "owl.safetensors", 7)
    joined = join_for(demo, [tmp_path / "two.safetensors", third], tmp_path / "three.safetensors")
    assert [s["concept"] for s in joined.specs()] == ["dog", "castle", "owl"]


def test_the_command_joins_for_a_model_and_refuses_files_of_another(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i, concept in enumerate(("dog", "castle")):
        saved(demo, concept, tmp_path / f"{concept}.safetensors", i)
    command = ["merge", "dog.safetensors", "castle.safetensors", "--out", "both.safetensors"]
    assert main([*command, "--model", "demo"]) == 0
    assert "erases dog, castle" in capsys.readouterr().out
    other = load_model(tiny.original(tiny.make("sd1")))
    with pytest.raises(SageError, match="do not exist in this"):
        join_for(
            other,
            [tmp_path / "dog.safetensors", tmp_path / "castle.safetensors"],
            tmp_path / "no.safetensors",
        )
    assert not (tmp_path / "no.safetensors").exists() and read_lora(tmp_path / "both.safetensors").rank == 4
