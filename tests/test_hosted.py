"""The core on a model that a host runs, here a host of a few lines: no encoder can be reached."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
import torch
from safetensors.torch import load_file

from sage_core import Cancelled, ErasureSpec, SageError, erase
from sage_core.cycle.residual import Residual
from sage_core.diffusion import schedule
from sage_core.diffusion.architecture import FAMILIES
from sage_core.diffusion.hosted import HostedConditioning, HostedModel, Row
from sage_core.diffusion.hosted_families import HOSTED, diffusers_names
from sage_core.diffusion.knowledge import Prompt
from sage_core.evaluate.judge import ModelJudge
from sage_core.lora.file import read_lora
from sage_core.methods.domains.word import Word
from sage_core.methods.plain_prompts import in_plain_prompts, runs
from sage_core.methods.table import METHODS

WIDTH = 12


class Network(torch.nn.Module):
    """Two layers under FLUX's names: what the prompt adds to the latents' mean."""

    def __init__(self):
        super().__init__()
        block = torch.nn.Module()
        block.txt_attn = torch.nn.Module()
        block.txt_attn.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.txt_in = torch.nn.Linear(WIDTH, WIDTH)
        self.img_in = torch.nn.Linear(16, 16)
        self.double_blocks = torch.nn.ModuleList([block])
        self.requires_grad_(False)

    def forward(self, x, text):
        states = self.double_blocks[0].txt_attn.qkv(torch.tanh(self.txt_in(text))).mean(1)
        return self.img_in(x.movedim(1, -1)).movedim(-1, 1) + states[:, :16, None, None]


class Words:
    """A host whose prompts have as many states as words."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, network):
        self.network, self.asked, self.batches = network, [], []

    def encode(self, prompt: str) -> Row:
        self.asked.append(prompt)
        rows = []
        for word in ["<start>", *prompt.split()]:
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
            rows.append(torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)))
        return Row(len(rows), torch.stack(rows)[None])

    def velocity(self, x, s, rows):
        self.batches.append(len(rows))
        return self.network(x, torch.cat([row.value for row in rows])) * (1 + s.view(-1, 1, 1, 1))


@pytest.fixture()
def model():
    torch.manual_seed(0)
    network = Network()
    own = HostedModel(HOSTED["flux1"], Words(network), network, schedule.flow(3.0), "test", "f" * 64, "said")
    own.pixels = 64
    return own


def test_rows_of_any_length_are_predicted_each_as_alone(model):
    prompts = ["a dog", "", "one two three four", "a cat", "red"]
    z, t = torch.randn(5, 16, 8, 8), torch.tensor([900, 700, 500, 300, 100])
    model.at_once = None
    together = model.predict_noise(z, t, model.encode(prompts))
    assert sorted(model.host.batches) == [1, 1, 1, 2]
    for i, prompt in enumerate(prompts):
        alone = model.predict_noise(z[i : i + 1], t[i : i + 1], model.encode([prompt]))
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)


def test_the_noise_is_that_of_the_velocity(model):
    """x = (1 - s) z0 + s e and v = e - z0 give back e."""
    z0, e, t = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 8, 8), torch.tensor([600])
    model.host.velocity = lambda x, s, rows: e - z0
    abar = model.alphas[t]
    z = abar.sqrt() * z0 + (1 - abar).sqrt() * e
    assert torch.allclose(model.predict_noise(z, t, model.encode(["a"])), e, atol=1e-5)


def test_conditionings_behave_as_the_cores_own(model):
    cond = model.encode(["a", "b c", "d"])
    both = type(cond).cat([cond, model.encode(["e"])])
    assert len(both) == 4 and both.leaf() is both and both.detach() is both and both.tensors() == []
    assert [row.kind for row in both[1:3].rows] == [3, 2]
    assert both[torch.tensor([3, 0])].rows == both[[3, 0]].rows == [both.rows[3], both.rows[0]]
    assert isinstance(both[:1], HostedConditioning) and model.host.asked == ["a", "b c", "d", "e"]


def test_an_erasure_lowers_its_loss_and_is_split_exactly_in_the_file(model, tmp_path, monkeypatch):
    """The loss in units of the untouched model's at the same states: those of a step differ much in size."""
    pairs: list[tuple[float, float]] = []
    own_note = Residual.note

    def note(self, loss: float, pull: float) -> None:
        pairs.append((loss, pull))
        own_note(self, loss, pull)

    monkeypatch.setattr(Residual, "note", note)
    erasure = erase(model, ErasureSpec("dog", method="esd", steps=40, resolution=64, learning_rate=0.02))
    first, last = (sum(a for a, _ in p) / sum(b for _, b in p) for p in (pairs[:1], pairs[-5:]))
    assert first == pytest.approx(1, rel=1e-3) and last < 0.5, pairs
    path = erasure.save(tmp_path / "dog.safetensors", model)
    tensors, name = load_file(path), "lora_unet_double_blocks_0_txt_attn_qkv"
    block = "transformer.transformer_blocks.0.attn."
    parts = [f"{block}add_{part}_proj" for part in "qkv"]
    change = torch.cat([tensors[f"{p}.lora_B.weight"] @ tensors[f"{p}.lora_A.weight"] for p in parts])
    own = erasure.adapter.up[name] @ erasure.adapter.down[name]
    assert (change.float() - own.detach()).abs().max() < 2e-3 * own.abs().max()
    assert {k.rsplit(".lora", 1)[0] for k in tensors} == {*parts, "transformer.context_embedder"}
    file = read_lora(path)
    assert file.metadata["sage.host"] == "said" and "CLIP" not in file.metadata["modelspec.description"]
    assert len(set(model.host.asked)) == len(model.host.asked)
    erasure.adapter.remove()


def test_sage_runs_on_it_with_names_in_plain_prompts_and_without_terms_of_the_encoder(model):
    erasure = erase(model, ErasureSpec("dog", synonyms=("hound",), steps=3, resolution=64), looks=True)
    assert set(erasure.losses[0]) == {"erase", "noise", "total"} and len(erasure.left) > 1
    assert erasure.checked is not None and set(erasure.checked.left) == {"dog", "hound"}
    erasure.adapter.remove()


@pytest.mark.parametrize("method", ["sage", "sage-robust"])
def test_no_prompt_is_encoded_between_steps_and_nothing_else_changes(model, method, monkeypatch):
    """A host may have to swap its network for its text encoder."""
    spec = ErasureSpec("dog", method=method, synonyms=("hound",), steps=5, check=False, resolution=64)
    asked: list[int] = []

    def note(event) -> None:
        if event.phase == "erase":
            asked.append(len(model.host.asked))

    ahead = erase(model, spec, note)
    ahead.adapter.remove()
    assert len(set(asked)) == 1, asked
    monkeypatch.setattr("sage_core.cycle.run.encode_ahead", lambda run, steps: None)
    model.text.known.clear()
    asked.clear()
    at_each_step = erase(model, spec, note)
    at_each_step.adapter.remove()
    assert len(set(asked)) > 1 and at_each_step.losses == ahead.losses


def test_a_run_that_was_stopped_resumes_to_the_same_weights(model, tmp_path):
    spec = ErasureSpec("dog", synonyms=("hound",), steps=6, resolution=64)
    whole = erase(model, spec)
    whole.adapter.remove()

    def stop(event) -> None:
        if event.phase == "erase" and event.step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        erase(model, spec, stop, tmp_path / "state.resume", save_every=0.0)
    rest = erase(model, spec, None, tmp_path / "state.resume", resume=True)
    rest.adapter.remove()
    assert len(rest.losses) == len(whole.losses)
    for name, up in whole.adapter.up.items():
        assert torch.allclose(rest.adapter.up[name], up, atol=1e-5)


def test_the_untouched_model_judges_pictures(model):
    """The word whose prompt explains the noise best is seen."""
    judge = ModelJudge(model, ErasureSpec("dog"))
    asked = judge._prompt("dog", "house")
    row = model.encode([asked]).rows[0].value
    own = model.host.velocity

    def velocity(x, s, rows):
        hit = torch.tensor([torch.equal(r.value, row) for r in rows]).view(-1, 1, 1, 1)
        return own(x, s, rows) + 50.0 * ~hit

    model.host.velocity = velocity
    latents, prompt = torch.randn(1, 16, 8, 8), Prompt("", "a dog", "dog", 0)
    assert judge.sees_latents(latents, ["dog"], [prompt]) == [True]
    assert judge.sees_latents(latents, [judge.rivals[0]], [prompt]) == [False]


def test_the_recipe_keeps_what_was_asked_for_and_drops_what_reads_the_encoder():
    recipe = ErasureSpec("dog").recipe(())
    plain = in_plain_prompts(recipe)
    assert plain.fingerprint() == recipe.fingerprint() and plain.method.domain == Word()
    assert [type(term).__name__ for term in plain.method.retention] == ["Noise"]
    assert plain.training.refit == 0 and plain.method.warm is None


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not runs(method)])
def test_a_method_that_needs_the_encoder_is_refused_at_once(model, name):
    with pytest.raises(SageError, match="choose one of sage, sage-robust, esd"):
        erase(model, ErasureSpec("dog", method=name))
    assert model.host.asked == []


@pytest.mark.parametrize("other", [{"surface": "unet"}, {"surface": "text"}, {"becomes": "automatic"}])
def test_other_requests_are_refused_at_once(model, other):
    with pytest.raises(SageError):
        erase(model, ErasureSpec("dog", **other))
    assert model.host.asked == []


@pytest.mark.parametrize("family", HOSTED.values(), ids=lambda f: f.name)
def test_hosted_families_name_text_layers_alone(family):
    assert family.flow and family.name not in FAMILIES and dataclasses.asdict(family)["thing_start"] == 0
    for path in (
        "img_in",
        "double_blocks.0.img_attn.qkv",
        "single_blocks.0.linear1",
        "layers.0.attention.qkv",
    ):
        assert diffusers_names(family, path) == ()
