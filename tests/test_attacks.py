"""Attacks: budgets are honoured, what they find is what their equation says, and they find what is there."""

import dataclasses
import json

import pytest
import torch

from sage_core import ErasureSpec, SageError
from sage_core.cli.arguments import ATTACKS
from sage_core.cli.main import main
from sage_core.diffusion.checkpointing import SWITCHES
from sage_core.diffusion.cost import Cost
from sage_core.evaluate import curves
from sage_core.evaluate.attacks import latent, ring_a_bell
from sage_core.evaluate.attacks.base import Attempt, concept_latents
from sage_core.evaluate.attacks.embedding import ClosedFormEmbedding, matrices, moments, still_means
from sage_core.evaluate.attacks.fine_tune import FineTuning
from sage_core.evaluate.attacks.inversion import RANDOM, STRONG, ConceptInversion
from sage_core.evaluate.attacks.latent import LatentInversion
from sage_core.evaluate.attacks.p4d import P4D, nearest
from sage_core.evaluate.attacks.ring_a_bell import RingABell
from sage_core.evaluate.attacks.success import Outcome, as_tuple, attacked, strongest
from sage_core.evaluate.attacks.table import ALL, named
from sage_core.evaluate.attacks.unlearn_diff import UnlearnDiffAtk, project
from sage_core.evaluate.attacks.words import allowed, check_length
from sage_core.evaluate.measure import about_attack, evaluate, measure_original
from sage_core.evaluate.report import page, table
from sage_core.lora.adapter import Adapter
from sage_core.lora.surfaces import surface_layers

SPEC = ErasureSpec("dog")
SMALL = (
    ConceptInversion(steps=3, marks=(1,), batch=2, latents=2, starts=("concept", RANDOM)),
    ClosedFormEmbedding(ridges=(0.01,)),
    UnlearnDiffAtk(steps=3, marks=(1,), batch=2, latents=2, restarts=1),
    P4D(steps=3, marks=(1,), batch=2, latents=2, restarts=1),
    RingABell(generations=3, marks=(1,), population=6, strengths=(1.0,)),
    LatentInversion(steps=(2, 4), latents=2),
    FineTuning(steps=3, marks=(1,), batch=2, pictures=(2,), latents=2),
)


@pytest.fixture(scope="module")
def model():
    from sage_core import load_model

    return load_model("demo")


@pytest.fixture(scope="module")
def dogs(model):
    return concept_latents(model, SPEC, 8, 0)


def said_nothing(text: str) -> None:
    """Whoever listens to no progress."""


def sees_dogs(model):
    judge = model.knowledge.judge()
    return lambda pictures: judge.sees(pictures, ["dog"] * len(pictures), [None] * len(pictures))


def erased(model, name: str) -> Adapter:
    """A random change of the cross-attention, large enough to matter."""
    generator = torch.Generator().manual_seed(1)
    adapter = Adapter.create(surface_layers(model, "cross_attention"), 4, 4.0, generator)
    for up in adapter.up.values():
        up.data.copy_(0.1 * torch.randn(up.shape, generator=generator))
    return adapter


@pytest.mark.parametrize("attack", SMALL, ids=lambda a: a.name)
def test_an_attack_keeps_to_its_budget_and_leaves_the_model_as_it_was(model, dogs, attack):
    before = [p.clone() for p in model.unet.parameters()]
    hooks, switches = _hooks(model), len(SWITCHES)
    said: list[str] = []
    attempts = list(attack.run(model, SPEC, dogs[: max(1, attack.latents)], 2, 0, said.append))
    assert {a.budget for a in attempts} == set(attack.budgets)
    assert all(a.pictures.shape == (2, 3, 64, 64) and torch.isfinite(a.pictures).all() for a in attempts)
    assert all(torch.equal(a, b) for a, b in zip(before, model.unet.parameters()))
    assert _hooks(model) == hooks and len(SWITCHES) == switches
    assert said or attack.unit == "solution"


@pytest.mark.parametrize(
    "attack, passes",
    [
        (ConceptInversion(steps=3, batch=2, starts=("thing",)), 3 * 2),
        (UnlearnDiffAtk(steps=3, marks=(), batch=2, restarts=1), 3 * 2),
        (FineTuning(steps=3, marks=(), batch=2, pictures=(2,)), 3 * 2),
        (P4D(steps=3, marks=(), batch=2, restarts=1), 3 * 2),
        (RingABell(generations=2, marks=(), population=4, strengths=(1.0,)), 0),
        (ClosedFormEmbedding(ridges=(0.1,)), 0),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_an_attack_takes_as_many_backward_passes_as_its_budget_says(model, dogs, attack, passes):
    before = model.cost.backwards
    list(attack.run(model, SPEC, dogs, 1, 0, said_nothing))
    assert model.cost.backwards - before == passes


def test_an_iterator_that_is_closed_early_puts_the_model_back(model, dogs):
    hooks = _hooks(model)
    running = FineTuning(steps=3, marks=(1,), batch=2).run(model, SPEC, dogs, 1, 0, said_nothing)
    next(running)
    assert _hooks(model) > hooks
    running.close()
    assert _hooks(model) == hooks


def _hooks(model) -> int:
    return sum(len(module._forward_hooks) for module in model.unet.modules())


def test_the_closed_form_is_the_direct_solution(model):
    """Least squares over all K and V, stacked, with the penalty as further rows."""
    adapter = erased(model, "random")
    try:
        pairs, read = list(matrices(model)), moments(model)
    finally:
        adapter.remove()
    c = model.encode(["a drawing of a dog"]).hidden[0].detach().double()
    ridge = 0.05
    found, left = still_means(read, c, ridge)
    new, old = torch.cat([b for _, b in pairs]), torch.cat([a for a, _ in pairs])
    assert not torch.allclose(new, old)
    weight = (ridge * (new.T @ new).trace() / new.shape[1]).sqrt()
    eye = torch.eye(new.shape[1], dtype=torch.double)
    stacked, wanted = torch.cat([new, weight * eye]), torch.cat([old, weight * eye]) @ c.T
    direct = torch.linalg.lstsq(stacked, wanted).solution
    torch.testing.assert_close(found, direct.T, atol=1e-6, rtol=1e-6)
    own = float((new @ c.T - old @ c.T).square().sum() / (old @ c.T).square().sum())
    assert left < own, "the solution reads more like the concept than the concept itself does"


def test_the_closed_form_on_the_untouched_model_is_the_concept_itself(model):
    c = model.encode(["a drawing of a dog"]).hidden[0].detach()
    found, left = still_means(moments(model), c, 0.1)
    torch.testing.assert_close(found.float(), c, atol=1e-4, rtol=1e-4)
    assert left < 1e-10


def test_the_closed_form_sees_the_erased_matrices_and_the_untouched_ones(model):
    adapter = erased(model, "random")
    try:
        name = next(n for n in adapter.layers if n.endswith("attn2_to_k"))
        layer = adapter.layers[name]
        change = adapter.up[name] @ adapter.down[name]
        before, after = next(matrices(model))  # both lists are in the order of the UNet's layers
        torch.testing.assert_close(before.float(), layer.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(after.float(), (layer.weight + change).detach(), atol=1e-5, rtol=1e-4)
    finally:
        adapter.remove()


def test_rows_are_projected_on_the_simplex():
    rows = 3 * torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    on = project(rows)
    torch.testing.assert_close(on.sum(1), torch.ones(5))
    assert (on >= 0).all()
    torch.testing.assert_close(project(on), on)
    torch.testing.assert_close(project(torch.tensor([[0.5, 2.0, -1.0]])), torch.tensor([[0.0, 1.0, 0.0]]))


def test_tokens_that_may_be_taken_are_words_that_can_be_typed_and_not_the_concept(model):
    text = model.text
    ids = allowed(model, ErasureSpec("dog", ("puppy",)))
    assert not {*text.words("dog"), *text.words("puppy")} & set(ids)
    assert text.bos not in ids and text.eos not in ids and max(ids) < len(text.tokenizer)
    assert all(text.words(text.tokenizer.decode([i])) == [i] for i in ids[:100])


@pytest.mark.parametrize("attack", [a for a in SMALL if a.name in ("unlearn-diff", "p4d", "ring-a-bell")])
def test_found_words_are_read_as_the_tokens_that_were_found(model, dogs, attack):
    """What was attacked with can be typed: its text is encoded to the same pictures."""
    attempt = list(attack.run(model, SPEC, dogs, 1, 0, said_nothing))[-1]
    ids = model.text.words(attempt.found)
    assert len(ids) == attack.tokens and set(ids) <= set(allowed(model, SPEC))


def test_the_nearest_token_of_a_token_is_itself(model):
    table = [e.get_input_embeddings().weight.detach().float() for e in model.text.encoders]
    chosen = torch.tensor([5, 9, 700])
    assert nearest([1.3 * t[chosen] for t in table], table).tolist() == chosen.tolist()


def test_a_search_over_words_comes_closer_to_its_target(model):
    ids = torch.tensor(allowed(model, SPEC))
    target = ring_a_bell.read(model, [ids[[3, 50, 80, 7]].tolist()])[0]
    config = RingABell(tokens=4, population=40)
    searched = list(config._search(model, ids, target, torch.Generator().manual_seed(0)))
    distances = [distance for _, _, distance in searched]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 0.8 * distances[0]
    assert len(searched) == config.generations


def test_the_direction_of_a_concept_points_to_it(model):
    direction = ring_a_bell.concept_direction(model, SPEC)
    dog, cup, thing = (
        ring_a_bell.read(model, [model.text.words(f"a photo of a {w}")])[0] for w in ("dog", "cup", "object")
    )
    cosine = torch.nn.functional.cosine_similarity
    toward = cosine(direction.flatten(), (dog - thing).flatten(), dim=0)
    assert toward > 0.8 and toward > cosine(direction.flatten(), (cup - thing).flatten(), dim=0)


def test_ddim_there_and_back_draws_the_same_picture(model, dogs):
    with torch.no_grad():
        cond = model.encode(["a drawing of a dog"] * 2)
        noise = latent.to_noise(model, dogs[:2], cond, 20, 4)
        again = latent.to_picture(model, noise, cond, 20)
    assert 0.3 < noise.square().mean() < 2.0, "like noise"
    assert (again - dogs[:2]).square().mean() < 0.02 * dogs[:2].square().mean()


def test_steps_back_and_forth_cancel():
    z, eps = torch.randn(3, 4), torch.randn(3, 4)
    a, b = torch.tensor(0.9), torch.tensor(0.3)
    torch.testing.assert_close(latent.moved(latent.moved(z, eps, a, b), eps, b, a), z, atol=1e-5, rtol=1e-4)
    assert latent.times(10)[0] == 99 and latent.times(10)[-1] == 999


def test_the_best_start_counts_at_each_budget(model):
    @dataclasses.dataclass(frozen=True)
    class Scripted(LatentInversion):
        steps: tuple[int, ...] = (1, 2)

        def run(self, model, spec, latents, images, seed, on_event):
            for start, shares in (("a", (1, 0)), ("b", (0, 2))):
                for budget, share in zip((1, 2), shares):
                    yield Attempt(budget, torch.full((4, 1), share / 4.0), start)

    def sees(pictures):
        return [i < 4 * float(pictures[0, 0]) for i in range(len(pictures))]

    outcome = attacked(model, SPEC, Scripted(), torch.zeros(1), sees, 4, 0)
    assert outcome.curve == {1: 0.25, 2: 0.5} and outcome.success == 0.5 and outcome.start == "b"
    assert strongest([Outcome(Scripted(), {2: 0.1}), outcome]) is outcome and strongest([]) is None
    words = Outcome(ClosedFormEmbedding(), {1: 0.1})
    assert strongest([outcome, words]) is words, "an inverted picture says nothing of what a model knows"


def test_the_table_and_the_command_line_know_the_same_attacks():
    assert (*(a.name for a in ALL), "all", "none") == ATTACKS
    assert named(["all"]) == ALL and named(["none"]) == () and named(["rece", "rece"]) == (ALL[2],)
    assert all(a.paper.count("arXiv") == 1 and a.budgets == tuple(sorted(a.budgets)) for a in ALL)
    assert as_tuple(None) == () and as_tuple(STRONG) == (STRONG,) and as_tuple([STRONG]) == (STRONG,)
    with pytest.raises(SageError, match="does not go with others"):
        named(["none", "quick"])
    with pytest.raises(SageError, match="choose from quick"):
        named(["telepathy"])


def test_too_many_tokens_are_refused_in_a_sentence(model):
    with pytest.raises(SageError, match="does not fit beside"):
        check_length(model.text, 75, "a drawing of a dog")


def test_the_report_has_a_row_and_a_curve_for_each_attack():
    class Base:
        untouched = {"quick": {10: 0.5, 150: 1.0}}

    attack = ConceptInversion(marks=(10,))
    about = about_attack(Outcome(attack, {10: 0.0, 150: 0.25}, start="thing"), Base(), 8)
    assert about["budget"] == [10, 150] and about["success"] == [0.0, 0.25]
    assert about["untouched"] == [0.5, 1.0] and about["interval"][0] < 0.25 < about["interval"][1]
    shown = curves.section({"quick": about}, "quick")
    assert shown.count("<polyline") == 2 and "2308.01508" in shown and "http" not in shown
    assert len(curves.lines({"quick": about})) == 1 and "0.25" in curves.lines({"quick": about})[0]
    assert curves.section({}, "") == "" and curves.lines({}) == []


CHEAPER = {  # of the table's budgets
    "inversion": {"steps": 40, "starts": ("concept",), "marks": ()},
    "fine-tune": {"steps": 20, "marks": (), "pictures": (16,)},
    "unlearn-diff": {"steps": 10, "marks": ()},
    "p4d": {"marks": ()},
    "ring-a-bell": {"generations": 15, "marks": ()},
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", [a for a in ALL if a.name != "quick"], ids=lambda a: a.name)
def test_an_attack_finds_the_concept_in_the_untouched_model(model, attack):
    """The control. What an attack cannot find there, it says nothing about elsewhere."""
    attack = dataclasses.replace(attack, **CHEAPER.get(attack.name, {}))
    latents = concept_latents(model, SPEC, 16, 0)
    assert attacked(model, SPEC, attack, latents, sees_dogs(model), 4, 0).success >= 0.75


def test_no_attack_beside_others_is_refused_before_a_model_is_read(capsys):
    given = ["evaluate", "demo", "--lora", "none.safetensors", "--attack", "none", "--attack", "rece"]
    assert main(given) == 1
    assert "--attack none means no attack" in capsys.readouterr().err


def test_attacks_are_in_the_report_and_the_strongest_is_the_headline(model, tmp_path):
    """As evaluate measures: a control for each, and the page and table that show them."""
    spec, attacks = ErasureSpec("dog"), (SMALL[0], SMALL[1])
    base = measure_original(model, spec, 2, attack=attacks)
    about = {"path": "x.safetensors", "bytes": 1, "rank": 1}
    evaluation = evaluate(model, base, spec, Cost(), 0.0, about, 2, attack=attacks)
    report = evaluation.report
    assert list(report["attacks"]) == ["quick", "rece"]
    best = report["attacks"][report["attacked_by"]]
    assert (
        report["after"]["attacked"]
        == best["success"][-1]
        == max(a["success"][-1] for a in report["attacks"].values())
    )
    assert report["before"]["attacked"] == best["untouched"][-1]
    assert all(a["success"] == a["untouched"] for a in report["attacks"].values()), "nothing was erased"
    assert "rece" in table(report) and "<svg" in page(evaluation)
    assert json.loads(json.dumps(report))["attacks"] == report["attacks"]
