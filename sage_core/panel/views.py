"""What the page shows of a run, as HTML. Everything that a user or a file wrote is escaped."""

from __future__ import annotations

import html
import json
import time
from pathlib import Path
from typing import Any

from .engine import Engine
from .runs import CANCELLED, DONE, FAILED, RUNNING, WAITING, Run

CELLS = {
    "concept": "the concept",
    "synonyms": "words for it, not given",
    "near": "its neighbours",
    "far": "other things",
    "attacked": "under attack",
}
STATES = {
    WAITING: "queued",
    RUNNING: "running",
    DONE: "done",
    FAILED: "failed",
    CANCELLED: "cancelled",
}
LISTED = 60  # runs in the history on the page


def escaped(value: object) -> str:
    return html.escape(str(value), quote=True)


def alert(sentence: str) -> str:
    """An error, in place; screen readers say it at once."""
    return f'<div class="sage-alert" role="alert">{escaped(sentence)}</div>' if sentence else ""


def note(sentence: str) -> str:
    return f'<div class="sage-note" role="status">{escaped(sentence)}</div>' if sentence else ""


def source(run: Run, name: str) -> str:
    """The address of a run's file, relative to the page."""
    return f"sage/run/{run.id}/{name}"


def shown_run(engine: Engine, run: Run | None) -> str:
    """The right side of the page."""
    if run is None:
        return (
            '<div class="sage-empty"><p>Nothing was erased yet.</p><p>Type a concept on the left and press'
            " <b>Erase</b>. The bundled model draws 117 things, for example: dog, castle, pizza, robot.</p>"
            "</div>"
        )
    parts = [_head(run)]
    if run.status == RUNNING:
        parts.append(_going(run, engine.live(run.id)))
    elif run.status == WAITING:
        parts.append(note(_waits(engine, run)))
    elif run.status in (FAILED, CANCELLED):
        parts.append(alert(run.message) if run.status == FAILED else note(run.message))
        parts.append(_last_pictures(engine, run))
    else:
        parts.append({"erase": _erased, "join": _joined, "words": _words, "attack": _attacked}[run.kind](run))
        parts += [_attacked(other) for other in _attacks_on(engine, run)]
    return f'<div class="sage-run">{"".join(parts)}</div>'


def _head(run: Run) -> str:
    what = f"{escaped(run.title)} <small>from {escaped(run.model)}</small>"
    state = STATES.get(run.status, run.status)
    return f'<h2>{what} <span class="sage-state sage-{escaped(run.status)}">{state}</span></h2>'


def _waits(engine: Engine, run: Run) -> str:
    before = [r.title for r in engine.waiting() if r.id < run.id]
    going = engine.running()
    names = ([going.title] if going else []) + before
    reason = f" ({run.message})" if run.message else ""
    return f"Waits for: {', '.join(names)}{reason}" if names else f"Begins in a moment{reason}"


def _going(run: Run, live: dict[str, Any]) -> str:
    """Progress, what is left of the concept, and pictures of it, first and latest."""
    step, total, text = live.get("step", 0), live.get("total", 0), live.get("text", "")
    bar = (
        f'<progress max="{total}" value="{step}" aria-label="progress"></progress>'
        if total
        else ('<progress aria-label="progress"></progress>')
    )
    count = f" {step} of {total}" if total > 1 else ""
    eta = f", at most {live['eta']:.0f} s" if live.get("eta") and step < total else ""
    parts = [f'{bar}<p class="sage-line" role="status">{escaped(text)}{count}{eta}</p>']
    if curve := live.get("curve"):
        way = " → ".join(f"{share:.0%}" for share in curve)
        parts.append(
            f'<p class="sage-left"><b>{curve[-1]:.0%}</b> of the concept is left <small>{way}</small></p>'
        )
    parts.append(_live_pictures(run, live.get("pictures", [])))
    return "".join(parts)


def _live_pictures(run: Run, names: list[str]) -> str:
    if not names:
        return ""
    rows = [("before", names[0])] + ([("now", names[-1])] if len(names) > 1 else [])
    figures = ""
    for label, name in rows:
        words = escaped(f"{run.title}, {label}: six pictures")
        figures += (
            f'<figure><figcaption>{label}</figcaption><img src="{source(run, name)}" alt="{words}"></figure>'
        )
    return f'<div class="sage-live">{figures}</div>'


def _last_pictures(engine: Engine, run: Run) -> str:
    folder = engine.store.place(run.id)
    names = sorted(folder.glob("live-*.png"), key=lambda p: int(p.stem.split("-")[1]))
    return _live_pictures(run, [path.name for path in names])


# ---- finished runs ----


def _erased(run: Run) -> str:
    result = run.result
    found = "This very erasure was there already, so nothing was trained. " if result.get("found") else ""
    parts = []
    if check := result.get("check"):
        left = max(0.0, min(1.0, max(check["left"].values(), default=0.0)))
        parts.append(f'<p class="sage-left"><b>{left:.0%}</b> of the concept is left, says the check</p>')
    seconds = f" {result['passes']} UNet passes, {result['seconds']:.0f} s." if result.get("passes") else ""
    sentence = result.get("sentence", "")
    sentence = sentence[:1].upper() + sentence[1:] + ("." if sentence and not sentence.endswith(".") else "")
    parts.append(f"<p>{escaped(found + sentence + seconds)}</p>")
    if guess := result.get("guess"):
        parts.append(f"<p><small>{escaped(run.title)}: {escaped(guess)}</small></p>")
    report = result.get("report")
    if report:
        parts += [compare(run), _numbers(report)]
    else:
        parts.append(note("No pictures were drawn: on a processor that would take long for this model."))
    return "".join(parts) + _links(run, workflow=True, report=bool(report))


def compare(run: Run) -> str:
    """Before and after on top of each other, with a divider that the mouse and the arrow keys move."""
    before, after = source(run, "before.png"), source(run, "after.png")
    return (
        '<div class="sage-compare" style="--cut: 50%">'
        f'<img src="{before}" alt="before: the untouched model">'
        f'<img class="sage-over" src="{after}" alt="after: the erased model, same prompts and seeds">'
        '<span class="sage-tag sage-tag-left">before</span><span class="sage-tag sage-tag-right">after</span>'
        '<input type="range" min="0" max="100" value="50" aria-label="divider: before on its left, after on'
        " its right\" oninput=\"this.parentNode.style.setProperty('--cut', this.value + '%')\"></div>"
    )


def _numbers(report: dict[str, Any]) -> str:
    """The share of pictures in which the judge sees what was asked for."""
    rows = ""
    for cell, words in CELLS.items():
        before, after = report["before"].get(cell), report["after"].get(cell)
        if before is not None and after is not None:
            rows += f'<tr><th scope="row">{words}</th><td>{before:.0%}</td><td>{after:.0%}</td></tr>'
    if not rows:
        return ""
    columns = [f'<th scope="col">{w}</th>' for w in ("pictures that show", "before", "after")]
    head = f"<tr>{''.join(columns)}</tr>"
    return f'<table class="sage-table">{head}{rows}</table>'


def _button(address: str, words: str, kind: str = "sage-button") -> str:
    """A link to a file, drawn as a button."""
    return f'<a class="{kind}" href="{address}" download>{escaped(words)}</a>'


def _links(run: Run, workflow: bool, report: bool) -> str:
    name = Path(run.result["lora"]).name
    links = [_button(source(run, "lora"), f"Download {name}", "sage-button sage-first")]
    if workflow:
        links.append(_button(source(run, "workflow.json"), "Workflow for ComfyUI"))
    if report:
        links.append(
            f'<a class="sage-button" href="{source(run, "report.html")}" target="_blank">Whole report</a>'
        )
    stem = name.removesuffix(".safetensors")
    code = f"<code>&lt;lora:{escaped(stem)}:1&gt;</code>"
    use = f"<p><small>In a Stable Diffusion WebUI: {code} in the prompt.</small></p>"
    return f'<div class="sage-links">{"".join(links)}</div>{use}'


def _joined(run: Run) -> str:
    names = ", ".join(run.result.get("concepts", []))
    return f"<p>One file that erases {escaped(names)}, fitted to each other.</p>" + _links(run, True, False)


def _words(run: Run) -> str:
    domain = run.result["domain"]
    means = ", ".join(word for word, _ in domain["means"]) or "no other word"
    close = ", ".join(word for word, _ in domain["close"]) or "no word"
    sure = "" if run.result.get("clear") else " There is no clear gap between the two lists, so look at them."
    return (
        f"<p>Also means it, and is erased with it: <b>{escaped(means)}</b>.</p>"
        f"<p>Close to it, and kept: {escaped(close)}.{sure}</p>"
    )


def _attacks_on(engine: Engine, run: Run) -> list[Run]:
    return [r for r in engine.runs() if r.kind == "attack" and r.status == DONE and run.id in r.parts][:1]


def _attacked(run: Run) -> str:
    report = run.result["report"]
    lines = ""
    for attack in (report.get("attacks") or {}).values():
        success, untouched = attack["success"][-1], attack["untouched"][-1]
        control = "" if untouched is None else f"; of the untouched model's, in {untouched:.0%}"
        title = attack["title"][:1].upper() + attack["title"][1:]
        lines += (
            f"<p>{escaped(title)} ({escaped(attack['paper'])}) brings the concept back in"
            f" <b>{success:.0%}</b> of the pictures{control}.</p>"
        )
    if not lines:
        lines = "<p>Nobody can judge this model's pictures, so the attack was not run.</p>"
    picture = f'<img src="{source(run, "attack.png")}" alt="what the erased model draws under the attack">'
    return (
        f'<section class="sage-attack"><h3>Red team</h3>{lines}{picture}'
        "<p><small>No erasure withstands everyone who has the weights: a learnt embedding is more than a"
        " prompt."
        f' <a href="{source(run, "report.html")}" target="_blank">Whole report</a></small></p></section>'
    )


# ---- lists ----


def label(run: Run) -> str:
    """A line of the history."""
    when = time.strftime("%d %b, %H:%M:%S", time.localtime(run.created))
    return f"{run.title} · {STATES.get(run.status, run.status)} · {when} · {run.model}"


def history(engine: Engine) -> list[tuple[str, str]]:
    """(label, id), the latest first."""
    return [(label(run), run.id) for run in engine.runs()[:LISTED]]


def queue_line(engine: Engine) -> str:
    """What is running and what is queued, in one line."""
    going, waiting = engine.running(), engine.waiting()
    if going is None and not waiting:
        return '<p class="sage-queue">The queue is empty.</p>'
    now = f"Running: <b>{escaped(going.title)}</b>. " if going else ""
    then = f"Next: {', '.join(escaped(r.title) for r in waiting)}." if waiting else "Nothing else is queued."
    return f'<p class="sage-queue">{now}{then}</p>'


def recipe(path: Path, label_of: str, workflow_key: str) -> str:
    """What a LoRA file says of itself. Raises SageError where it cannot be read."""
    from ..jobs.make import earlier_check
    from ..lora.file import read_lora
    from ..lora.metadata import SPEC_KEY, SPECS_KEY

    file = read_lora(path)
    rows = {"file": label_of, "layers": len(file.layers), "rank": file.rank}
    ours = SPEC_KEY in file.metadata or SPECS_KEY in file.metadata
    body = ""
    if ours:
        for spec in file.specs():
            body += f"<h3>Erases {escaped(spec.get('concept', ''))}</h3>{_spec(spec)}"
        if (checked := earlier_check(file)) is not None:
            body += f"<p>{escaped(checked.sentence(file.specs()[0].get('concept', 'the concept')))}.</p>"
        if result := file.result():
            body += _numbers(result)
        link = f"sage/opened/{workflow_key}/workflow.json"
        body += f'<div class="sage-links">{_button(link, "Workflow for ComfyUI")}</div>'
    else:
        body = note(
            "This LoRA was not made by this tool, or its metadata was stripped: there is no recipe in it."
        )
    names = {
        "made from": "ss_sd_model_name",
        "base": "ss_base_model_version",
        "title": "modelspec.title",
        "date": "modelspec.date",
        "version": "sage.version",
    }
    for words, key in names.items():
        if key in file.metadata:
            rows[words] = file.metadata[key][:200]
    return f"{_table(rows)}{body}"


def _spec(spec: dict[str, Any]) -> str:
    rows = {}
    for name, value in spec.items():
        if name == "domain" and isinstance(value, dict):
            rows["also means it"] = ", ".join(str(w[0]) for w in value.get("means", [])) or "no other word"
            rows["close, and kept"] = ", ".join(str(w[0]) for w in value.get("close", [])) or "no word"
        elif value not in (None, "", [], False) and name != "concept":
            plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
            words = (
                ", ".join(map(str, value))
                if isinstance(value, list)
                else value
                if plain
                else json.dumps(value)
            )
            rows[name.replace("_", " ")] = str(words)[:400]
    return _table(rows)


def _table(rows: dict[str, Any]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f'<table class="sage-table sage-recipe">{lines}</table>'
