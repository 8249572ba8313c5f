"""Weights in prompts, as ComfyUI reads them (sage_core/diffusion/weighting.py)."""

import pytest
import torch

from sage_core.diffusion.weighting import encode_weighted, parse_weights


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("a dog", [("a dog", 1)]),
        ("a (dog:1.4) on", [("a ", 1), ("dog", 1.4), (" on", 1)]),
        ("((dog))", [("dog", 1.21)]),
        ("(a (big:0.5) dog:1.3)", [("a ", 1.3), ("big", 0.5), (" dog", 1.3)]),
        ("((dog:1.2))", [("dog", 1.2)]),
        (r"\(dog\) (cat)", [("(dog) ", 1), ("cat", 1.1)]),
        ("a (dog", [("a (dog", 1)]),
        ("dog) x", [("dog) x", 1)]),
        ("a (b) c) (d", [("a ", 1), ("b", 1.1), (" c) (d", 1)]),
        ("(dog : 1.4 )", [("dog ", 1.4)]),
        ("(dog:-1)", [("dog", -1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("[dog]", [("[dog]", 1)]),
        ("()", []),
        ("", []),
        ("\\", [("\\", 1)]),
    ],
)
def test_prompts_are_read_as_comfyui_reads_them(text, pieces):
    found = parse_weights(text)
    assert [words for words, _ in found] == [words for words, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


def test_a_weight_moves_its_own_tokens_along_the_line_from_the_empty_prompt(thin):
    plain, empty = thin.encode(["a dog on a sofa"]).hidden, thin.encode([""]).hidden
    hidden = encode_weighted(thin.text, ["a (dog:1.5) on a sofa"]).hidden
    place = 1 + thin.text.words("a dog on a sofa").index(thin.text.words("dog")[0])
    count = len(thin.text.words("dog"))
    expected = plain.clone()
    own = slice(place, place + count)
    expected[:, own] = empty[:, own] + 1.5 * (plain[:, own] - empty[:, own])
    torch.testing.assert_close(hidden, expected)


def test_without_weights_it_is_the_plain_prompt(family, tmp_path):
    import tiny

    from sage_core import load_model

    model = load_model(tiny.folder(family, tmp_path / "m"))
    for text in ("a dog", "", "a dog " * 60):
        plain = model.text.encode(model.text.tokenize([text], truncate=True))
        weighted = encode_weighted(model.text, [text])
        for own, other in zip(weighted.tensors(), plain.tensors()):
            torch.testing.assert_close(own, other)


def test_prompts_of_a_batch_have_their_own_weights(thin):
    both = encode_weighted(thin.text, ["(dog:1.5)", "a (dog)"]).hidden
    alone = [encode_weighted(thin.text, [text]).hidden for text in ("(dog:1.5)", "a (dog)")]
    torch.testing.assert_close(both, torch.cat(alone))
