"""The guard: what draws a concept is taken out of a step, and nothing else (sage_core/guard.py)."""

import pytest
import torch

from sage_core.cli.main import main
from sage_core.diffusion.knowledge import Prompt
from sage_core.domain.shown import share_of
from sage_core.errors import SageError
from sage_core.evaluate.drawing import edit
from sage_core.guard import (
    ALL_LOOKS,
    LASTING,
    SETTLED,
    THRESHOLD,
    WATCHED,
    Guard,
    Looks,
    not_guarded,
    steered,
)

BASE = torch.zeros(1, 1, 1, 3)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def looked(guided, base, towards, threshold=0.6, push=0.6):
    return Looks(len(towards), threshold, push).steer(guided, base, towards, list(range(len(towards))))


def test_what_points_the_concepts_way_is_turned_around():
    """d = (3, 1), pull = (2, 0): the cosine is 3 / sqrt(10); 1.6 times its part along the pull goes."""
    seen = []

    def gate(number, cosine):
        seen.append(cosine)
        return cosine > 0.6

    out = steered(vector(3.0, 1.0), vector(0.0, 0.0), [vector(2.0, 0.0)], gate, 0.6)
    torch.testing.assert_close(out, vector(3 - 1.6 * 3, 1.0))
    torch.testing.assert_close(seen[0], torch.tensor([3 / 10**0.5]))


@pytest.mark.parametrize("way", [(1.0, 3.0), (-3.0, 1.0), (0.0, 0.0)])
def test_what_points_elsewhere_is_left_as_it_is(way):
    guided = vector(*way)
    assert torch.equal(looked(guided, vector(0.0, 0.0), [vector(2.0, 0.0)]), guided)


def test_each_picture_of_a_batch_is_judged_by_itself():
    guided, base = torch.cat([vector(1.0, 0.0), vector(0.0, 1.0)]), torch.zeros(2, 1, 1, 2)
    out = looked(guided, base, [vector(1.0, 0.0).repeat(2, 1, 1, 1)], 0.5, 0.0)
    torch.testing.assert_close(out, torch.cat([vector(0.0, 0.0), vector(0.0, 1.0)]))


def test_clean_latents_are_steered_like_noise():
    """Hosts predict x0 = z - sigma eps; the same formula holds for both."""
    torch.manual_seed(0)
    z, eps, base, toward = (torch.randn(2, 4, 3, 3) for _ in range(4))
    by_noise = looked(eps, base, [toward], 0.1)
    clean = [z - 7.0 * e for e in (eps, base, toward)]
    by_clean = looked(clean[0], clean[1], [clean[2]], 0.1)
    torch.testing.assert_close(by_clean, z - 7.0 * by_noise, rtol=1e-4, atol=1e-4)


def test_what_points_the_concepts_way_a_little_at_every_step_is_taken_out_once_it_has_settled():
    """A cosine under the threshold, but above LASTING of it; a second picture that points its way at first
    alone is left as it is.
    """
    cosine = (THRESHOLD + LASTING * THRESHOLD) / 2
    little, elsewhere = vector(cosine, (1 - cosine**2) ** 0.5), vector(0.0, 1.0)
    towards, base = [vector(1.0, 0.0).repeat(2, 1, 1, 1)], torch.zeros(2, 1, 1, 2)
    looks, left = Looks(1), []
    for number in range(SETTLED + 2):
        guided = torch.cat([little, little if number < SETTLED // 2 else elsewhere])
        out = looks.steer(guided, base, towards, [0])
        left.append([torch.equal(a, b) for a, b in zip(out, guided)])
    assert left == [[True, True]] * (SETTLED - 1) + [[False, True]] * 3
    assert looks.steered == 3


def test_a_step_that_turns_away_is_not_pushed_although_the_mean_points_the_concepts_way():
    looks, towards, base = Looks(1), [vector(1.0, 0.0)], torch.zeros(1, 1, 1, 2)
    for _ in range(SETTLED):
        looks.steer(vector(1.0, 0.0), base, towards, [0])
    away = vector(-1.0, 1.0)
    assert torch.equal(looks.steer(away, base, towards, [0]), away)


def test_many_concepts_are_all_looked_at_first_and_then_the_nearest():
    looks = Looks(10)
    base = torch.zeros(1, 1, 1, 10)
    axes = torch.eye(10).view(10, 1, 1, 1, 10)
    counts = []
    for _ in range(5):
        asked = looks.asked()
        counts.append(len(asked))
        looks.steer(axes[7] + 0.5 * axes[3], base, [axes[i] for i in asked], asked)
    assert counts == [10] * ALL_LOOKS + [WATCHED] * 3 and set(looks.asked()) == {7, 3}


@pytest.mark.parametrize("settings", [(0.0, 0.6), (1.0, 0.6), (0.6, -1.0), (float("nan"), 0.6), (0.6, 9.0)])
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(SageError, match="guard's"):
        Looks(1, *settings)


def test_the_concept_goes_under_any_name_and_other_pictures_stay_bit_by_bit(demo):
    judge = demo.knowledge.judge()
    prompts = [p for p in judge.prompts("dog", (), 6, 0) if p.cell in ("synonyms", "far")]

    def drawn():
        return demo.generate([p.text for p in prompts], [p.seed for p in prompts], 8)

    before = drawn()
    demo.guard = Guard(demo, ["dog"])
    after = drawn()
    seen = judge.sees(after, [p.expected for p in prompts], prompts)
    dogs = [i for i, p in enumerate(prompts) if p.cell == "synonyms"]
    assert not any(seen[i] for i in dogs)
    others = [i for i in range(len(prompts)) if i not in dogs]
    assert sum(seen[i] for i in others) >= len(others) - 1
    same = sum(torch.equal(before[i], after[i]) for i in others)
    assert same >= len(others) / 2, "the guard does nothing where no step draws a dog"


def test_the_share_is_one_where_the_noise_is_what_the_name_predicts_and_none_across():
    base, toward = vector(0.0, 1.0, 0.0), vector(2.0, 1.0, 0.0)
    for truth, share in (((2.0, 1.0, 5.0), 1.0), ((0.0, 7.0, 1.0), 0.0), ((1.0, 1.0, 0.0), 0.5)):
        torch.testing.assert_close(share_of(vector(*truth), base, toward), torch.tensor([share]))


def test_the_share_of_clean_latents_is_that_of_noise():
    torch.manual_seed(0)
    z0, noise, eps, toward = (torch.randn(2, 4, 3, 3) for _ in range(4))
    z = z0 + 7.0 * noise
    by_clean = share_of(z0, z - 7.0 * eps, z - 7.0 * toward)
    torch.testing.assert_close(by_clean, share_of(noise, eps, toward), rtol=1e-4, atol=1e-4)


@pytest.fixture
def drawn_by_name(demo):
    """Clean latents of two pictures each, by what was asked for."""
    names = ("dog", "cat", "castle")
    conds = {name: demo.encode([f"a drawing of a {name}"] * 2) for name in names}
    return {name: demo.sample(cond, [1, 2], 8) for name, cond in conds.items()}


def test_a_guard_knows_the_pictures_that_show_its_concepts(demo, drawn_by_name):
    z0 = torch.cat(list(drawn_by_name.values()))
    assert Guard(demo, ["dog"]).shows(z0).tolist() == [True] * 2 + [False] * 4
    assert Guard(demo, ["castle", "dog"]).shows(z0).tolist() == [True, True, False, False, True, True]
    assert not Guard(demo, ["dog"], pictures=False).shows(z0).any()


def test_an_edit_of_a_picture_that_shows_the_concept_keeps_nothing_of_it_and_others_are_edited(
    demo, drawn_by_name
):
    given = demo.decode(torch.cat([drawn_by_name["dog"][:1], drawn_by_name["castle"][:1]]))
    prompts, seeds = ["a drawing"] * 2, [5, 6]
    free = edit(demo, given, prompts, seeds, 0.4, steps=8)
    demo.guard = Guard(demo, ["dog"])
    guarded = edit(demo, given, prompts, seeds, 0.4, steps=8)
    from_noise = demo.generate(prompts[:1], seeds[:1], 8)
    torch.testing.assert_close(guarded[:1], from_noise, rtol=0, atol=1e-3)
    torch.testing.assert_close(guarded[1], free[1], rtol=0, atol=1e-3)
    assert (guarded[0] - free[0]).abs().mean() > 0.1


@pytest.mark.parametrize("pictures", [True, False])
def test_a_finished_picture_that_shows_the_concept_is_drawn_again_with_every_step_watched(demo, pictures):
    """A threshold that no step reaches leaves it to the look at the picture."""
    demo.guard = guard = Guard(demo, ["dog"], 0.9999, pictures=pictures)
    images = demo.generate(["a drawing of a dog", "a drawing of a castle"], [1, 2], 8)
    asked = [Prompt("concept", "", "dog", 1), Prompt("far", "", "castle", 2)]
    seen = demo.knowledge.judge().sees(images, ["dog", "castle"], asked)
    assert [bool(v) for v in seen] == [not pictures, True] and guard.again == int(pictures)


def test_a_style_is_said_not_to_be_guarded():
    assert not_guarded(["dog", "robot"]) == ""
    assert "'cartoon' away" in not_guarded(["dog", "cartoon"], ("cartoon",))
    assert "'in the style of Hokusai'" in not_guarded(["in the style of Hokusai"])


def test_generate_draws_with_a_guard(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["generate", "demo", "--prompt", "a hound", "--steps", "4"]
    assert main([*command, "--out", "free.png"]) == 0
    assert main([*command, "--out", "guarded.png", "--guard", "dog", "--guard", "cat"]) == 0
    assert (tmp_path / "free.png").read_bytes() != (tmp_path / "guarded.png").read_bytes()
    assert "stepped in" in capsys.readouterr().out
