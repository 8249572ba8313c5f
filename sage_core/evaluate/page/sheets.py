"""Pictures before and after as tables: the same prompt and seed in a column, an erasure in a row."""

from __future__ import annotations

from ..measure import cells_of
from ..pictures import ASKED, caption, title
from .sections import escaped
from .shown import Shown

COLUMNS = 8
LONGEST = 90  # characters of a prompt above a picture
LONGEST_ALT = 300


def sheets(group: list[Shown], blur: bool) -> str:
    """All pictures of erasures that were measured on the same prompts."""
    first = group[0]
    out = ""
    for cell in cells_of(first.prompts):
        places = first.numbers(cell)
        if places:
            out += _cell(group, cell, places, blur)
    return out + _attacks(group, blur)


def _cell(group: list[Shown], cell: str, places: list[int], blur: bool) -> str:
    first = group[0]
    count = sum(prompt.cell == cell for prompt in first.prompts)
    some = f" The first {len(places)} of {count}." if count > len(places) else ""
    rows = [("before", [_picture(first, place, 0, "before", blur) for place in places])]
    for shown in group:
        name = "after" if len(group) == 1 else shown.label
        rows.append((name, [_picture(shown, place, 1, name, blur) for place in places]))
    headings = []
    for place in places:
        prompt = first.prompts[first.index[place]]
        words = caption(prompt.text)
        short = words if len(words) <= LONGEST else words[:LONGEST] + "…"
        headings.append(f"{escaped(short)}<br><small>seed {prompt.seed}</small>")
    return _folded(title(cell), f"Same prompt and seed in a column.{some}", headings, rows)


def _picture(shown: Shown, place: int, when: int, name: str, blur: bool) -> str:
    """A picture with what the judge says of it. when: 0 before, 1 after. name: of the row."""
    number = shown.index[place]
    prompt = shown.prompts[number]
    verdict = None if shown.seen is None else shown.seen[number][when]
    words = f"{name}, seed {prompt.seed}: {prompt.text}"[:LONGEST_ALT]
    source = (shown.before, shown.after)[when][place]
    note = ""
    if verdict is not None:
        leaks = when == 1 and verdict and prompt.cell in ASKED
        lost = when == 1 and not verdict and prompt.cell in ("near", "far")
        kind = "bad" if leaks or lost else "fine"
        note = f"<span class={kind}>{'seen' if verdict else 'not seen'}</span>"
    return _image(source, words, blur) + note


def _image(source: str, words: str, blur: bool) -> str:
    image = f"<img src='{source}' alt='{escaped(words)}' width=96 height=96>"
    if not blur:
        return image
    return (
        "<button type=button class=veil aria-pressed=false title='Show or hide this picture'>"
        f"{image}</button>"
    )


def _attacks(group: list[Shown], blur: bool) -> str:
    """What the strongest attack makes each erased model draw."""
    attacked = [shown for shown in group if shown.attacked]
    if not attacked:
        return ""
    rows, most = [], max(len(shown.attacked) for shown in attacked)
    count = max(shown.attack_count for shown in attacked)
    some = f" The first {most} of {count}." if count > most else ""
    for shown in attacked:
        by = shown.report.get("attacked_by", "")
        name = f"after, by {by}" if len(group) == 1 else f"{shown.label}, by {by}"
        words = f"{name}: under attack, picture"
        rows.append((name, [_image(u, f"{words} {i}", blur) for i, u in enumerate(shown.attacked, 1)]))
    headings = [str(i) for i in range(1, most + 1)]
    note = f"What the erased model draws under the strongest attack.{some}"
    return _folded("under attack", note, headings, rows)


def _folded(name: str, note: str, headings: list[str], rows: list[tuple[str, list[str]]]) -> str:
    """Tables of COLUMNS columns each. headings and cells are HTML."""
    tables = ""
    for start in range(0, len(headings), COLUMNS):
        part = slice(start, start + COLUMNS)
        top = "".join(f"<th scope=col>{heading}</th>" for heading in headings[part])
        body = ""
        for label, cells in rows:
            pictures = "".join(f"<td>{cell}</td>" for cell in cells[part])
            body += f"<tr><th scope=row>{escaped(label)}</th>{pictures}</tr>"
        tables += (
            f"<table class=sheet><caption class=hidden>{escaped(name)}, {start + 1} to"
            f" {min(start + COLUMNS, len(headings))}</caption>"
            f"<thead><tr><th scope=col><span class=hidden>model</span></th>{top}</tr></thead>"
            f"<tbody>{body}</tbody></table>"
        )
    return (
        f"<details open><summary><h4>{escaped(name)}</h4> <span>{escaped(note)}</span></summary>"
        f"<div class=scroll tabindex=0 role=region aria-label='pictures: {escaped(name)}'>{tables}</div>"
        "</details>"
    )
