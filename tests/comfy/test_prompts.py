"""Prompts as hosts let people write them: an erasure that was trained on plain words has to hold for weights,
lists, long prompts and clip skip.
"""

from __future__ import annotations

import sys

server, graphs, drawn = (sys.modules[f"comfy_test_{name}"] for name in ("server", "graphs", "drawn"))
FORMS = {
    "weight": "a cartoon drawing of a ({}:1.3)",
    "brackets": "(((a cartoon drawing of a {})))",
    "list": "{}, cartoon drawing",
    "clip skip 2": "a cartoon drawing of a {}",
}
IMAGES = 8 if server.LONG else 4
# More than 75 tokens, which hosts put into several chunks, the bundled model was not made for: it draws
# nothing that can be detected.


def draw_all(comfy, graph: dict, word: str, erased: bool) -> dict[str, float]:
    """Of each form, how often the word is seen."""
    spots = {}
    source = "2" if erased else "1"
    for i, (form, text) in enumerate(FORMS.items()):
        first, clip = 10 + 10 * i, [source, 1]
        if form == "clip skip 2":
            graph[str(first + 9)] = {
                "class_type": "CLIPSetLastLayer",
                "inputs": {"clip": clip, "stop_at_clip_layer": -2},
            }
            clip = [str(first + 9), 0]
        graph = graphs.draw(
            graph, first, [source, 0], clip, text.format(word), IMAGES, steps=12, prefix=f"form{i}"
        )
        spots[form] = str(first + 5)
    outcome = comfy.run(graph, 400)
    assert outcome.status == "success", outcome.error
    return {form: drawn.seen(drawn.pictures(comfy, outcome, node), word) for form, node in spots.items()}


def test_an_erasure_holds_however_the_prompt_is_written(comfy, erased_dog):
    before, after = (draw_all(comfy, erased_dog[0], "dog", erased) for erased in (False, True))
    kept_before, kept = (draw_all(comfy, erased_dog[0], "cat", erased) for erased in (False, True))
    print({form: (before[form], after[form], kept_before[form], kept[form]) for form in FORMS})
    for form in FORMS:
        assert after[form] == 0, form
        assert kept[form] >= kept_before[form] - 1 / IMAGES, form
        assert min(before[form], kept_before[form]) >= 0.5, f"{form}: else the test says nothing"
