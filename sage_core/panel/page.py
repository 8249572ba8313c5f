"""The page: what lies where, and which button does what. The work is desk.py's and engine.py's."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..errors import SageError
from ..prompts.kinds import KINDS
from . import desk, views
from .compat import blocks, gradio, on
from .desk import GUESSED, Form
from .engine import Engine
from .routes import Routes, key_of
from .runs import DONE, Run

HERE = Path(__file__).parent
TITLE = "SAGE Concept Eraser"
HEAD = f"""<div class="sage-page"><h1>{TITLE}</h1><p class="sage-lead">Erases a concept from a Stable
Diffusion model and saves the change as a LoRA.</p>
<div id="sage_silent" class="sage-alert" role="alert"></div></div>"""
EXPLAINED = "Ticked words count. Untick a word to strike it; add one below."


class Page:
    """Built once for a server; what a browser looks at is in its own states."""

    def __init__(self, engine: Engine, routes: Routes, problem: str = ""):
        self.engine, self.routes, self.problem = engine, routes, problem
        self.gr = gradio()

    def build(self):
        """The gradio page, to be shown alone or in a host's tab."""
        gr = self.gr
        with blocks(TITLE) as page:
            style = (HERE / "page.css").read_text(encoding="utf-8")
            gr.HTML(f"<style>{style}</style>{HEAD}{views.alert(self.problem)}")
            # choice: what this browser chose; only buttons write it. sent: what it has; only the tick writes
            # it.
            self.choice, self.sent = gr.State({"shown": "", "words": ()}), gr.State({})
            with gr.Row():
                with gr.Column(scale=5, min_width=320), gr.Tabs():
                    with gr.Tab("Erase"):
                        self._erase_tab()
                    with gr.Tab("History"):
                        self._history_tab()
                    with gr.Tab("Open a LoRA"):
                        self._open_tab()
                with gr.Column(scale=7, min_width=320):
                    self._right_side()
            self.tick = gr.Button("refresh", elem_id="sage_tick", elem_classes="sage-hidden")
            self._wire()
            on(page.load, None, [], [], js=(HERE / "page.js").read_text(encoding="utf-8"))
        return page

    # ---- what lies where ----

    def _erase_tab(self) -> None:
        gr = self.gr
        models = list(self.engine.places.list_models())
        with gr.Row():
            self.model = gr.Dropdown(
                models, value=models[0], label="Model", elem_id="sage_model", scale=5, min_width=180
            )
            self.refresh = gr.Button("Refresh", size="sm", elem_id="sage_refresh", scale=1, min_width=80)
        self.concepts = gr.Textbox(
            label="What to erase, one concept a line",
            placeholder="dog\nin the style of Van Gogh\ncar | automobile, auto",
            lines=2,
            max_lines=8,
            elem_id="sage_concepts",
        )
        with gr.Row():
            self.find = gr.Button("Find words", elem_id="sage_find")
            self.erase = gr.Button("Erase", variant="primary", elem_id="sage_erase")
        self.message = gr.HTML("", elem_id="sage_message")
        with gr.Column(visible=False, elem_id="sage_words") as self.words:
            self.means = gr.CheckboxGroup(
                [], label="Means it, and is erased with it", info=EXPLAINED, elem_id="sage_means"
            )
            self.new_means, self.add_means = self._adder("means", "Another word for it")
            self.close = gr.CheckboxGroup([], label="Close to it, and kept", elem_id="sage_close")
            self.new_close, self.add_close = self._adder("close", "Another word that stays")
        with gr.Accordion("Settings", open=False):
            self._settings()

    def _adder(self, name: str, label: str):
        with self.gr.Row():
            text = self.gr.Textbox(label=label, elem_id=f"sage_new_{name}", scale=4, min_width=160)
            button = self.gr.Button("Add", size="sm", elem_id=f"sage_add_{name}", scale=1, min_width=70)
        return text, button

    def _settings(self) -> None:
        from ..methods.table import METHODS

        gr = self.gr
        self.becomes = gr.Textbox(
            label="What it becomes",
            info='Drawn in its place: "a cat", or automatic for the nearest word that stays. Empty: nothing.',
            elem_id="sage_becomes",
        )
        self.kind = gr.Dropdown(
            [GUESSED, *KINDS],
            value=GUESSED,
            label="Kind of concept",
            info="It decides how prompts are worded.",
        )
        self.method = gr.Dropdown(list(METHODS), value="sage", label="Method")
        self.seed = gr.Number(0, label="Seed", precision=0)
        self.steps = gr.Number(0, label="Steps at most", info="0: the method's own number", precision=0)
        self.resolution = gr.Number(0, label="Resolution", info="In pixels; 0: the model's own", precision=0)

    def _history_tab(self) -> None:
        gr = self.gr
        self.history = gr.Radio([], label="Runs, the latest first", elem_id="sage_history")
        self.forget = gr.Button("Remove from the history (the LoRA stays)", size="sm", elem_id="sage_forget")
        self.history_message = gr.HTML("")

    def _open_tab(self) -> None:
        gr = self.gr
        with gr.Row():
            self.lora = gr.Dropdown(
                list(self.engine.places.list_loras()), value=None, label="LoRA", elem_id="sage_lora", scale=5
            )
            self.refresh_loras = gr.Button(
                "Refresh", size="sm", elem_id="sage_refresh_loras", scale=1, min_width=80
            )
        most = self.engine.places.most_uploaded
        gr.HTML(
            f'<div class="sage-page sage-upload"><label for="sage_file">Or open one from elsewhere (at most'
            f' {most / 1e6:.0f} MB)</label><input id="sage_file" type="file" accept=".safetensors"'
            f' data-token="{self.routes.token}" data-most="{most}"'
            ' onchange="window.sagePanel.upload(this)"><p role="status"></p></div>'
        )
        self.recipe = gr.HTML("", elem_id="sage_recipe")
        self.repeat = gr.Button("Erase again as recorded, from the chosen model", elem_id="sage_repeat")
        self.open_message = gr.HTML("")

    def _right_side(self) -> None:
        gr = self.gr
        self.queue = gr.HTML("", elem_id="sage_queue")
        with gr.Row():
            self.cancel = gr.Button("Cancel", size="sm", interactive=False, elem_id="sage_cancel")
            self.resume = gr.Button("Resume", size="sm", interactive=False, elem_id="sage_resume")
            self.attack = gr.Button("Red team", size="sm", interactive=False, elem_id="sage_attack")
        self.side_message = gr.HTML("", elem_id="sage_side_message")
        self.shown = gr.HTML("", elem_id="sage_shown")

    # ---- which button does what ----

    def _wire(self) -> None:
        form = [self.model, self.concepts, self.method, self.kind, self.becomes, self.seed, self.steps]
        form += [self.resolution, self.means, self.close]
        submitted = [self.choice, self.message]
        on(self.find.click, self.on_find, [self.choice, *form], submitted)
        on(self.erase.click, self.on_erase, [self.choice, *form], submitted)
        on(self.refresh.click, self.on_refresh, [self.model], [self.model])
        for button, text, group, which in (
            (self.add_means, self.new_means, self.means, "means"),
            (self.add_close, self.new_close, self.close, "close"),
        ):
            add, ends = self._adding(which), [text, group, self.message]
            on(button.click, add, [self.choice, text, group], ends)
            on(text.submit, add, [self.choice, text, group], ends)
        on(self.cancel.click, self.on_cancel, [self.choice], [self.side_message])
        on(self.resume.click, self.on_resume, [self.choice], [self.side_message])
        on(self.attack.click, self.on_attack, [self.choice], [self.choice, self.side_message])
        chosen = getattr(self.history, "input", self.history.change)  # only a person's choice
        on(chosen, self.on_history, [self.choice, self.history], [self.choice])
        on(self.forget.click, self.on_forget, [self.history], [self.history_message])
        on(self.lora.change, self.on_lora, [self.lora], [self.recipe])
        on(self.refresh_loras.click, self.on_refresh_loras, [], [self.lora])
        on(
            self.repeat.click,
            self.on_repeat,
            [self.choice, self.model, self.lora],
            [self.choice, self.open_message],
        )
        seen = [self.sent, self.queue, self.shown, self.history, self.cancel, self.resume, self.attack]
        seen += [self.words, self.means, self.close]
        on(self.tick.click, self.on_tick, [self.choice, self.sent], seen)

    def on_find(self, choice: dict, *values) -> tuple:
        try:
            runs = desk.find_words(self.engine, _form(choice, values))
        except SageError as error:
            return choice, views.alert(str(error))
        # The search stays beside what is shown; its words come up in the two lists.
        return {"shown": runs[-1].id, "words": tuple(run.id for run in runs)}, ""

    def on_erase(self, choice: dict, *values) -> tuple:
        try:
            run, sentence = desk.start_erasing(self.engine, _form(choice, values))
        except SageError as error:
            return choice, views.alert(str(error))
        return choice | {"shown": run.id}, views.note(sentence)

    def on_refresh(self, model: str):
        models = list(self.engine.places.list_models())
        return self.gr.update(choices=models, value=model if model in models else models[0])

    def _adding(self, which: str):
        def add(choice: dict, text: str, ticked: list[str] | None) -> tuple:
            runs = desk.found_words(self.engine, tuple(choice["words"]))
            try:
                word = desk.add_word(text, len(runs) > 1)
            except SageError as error:
                return self.gr.update(), self.gr.update(), views.alert(str(error))
            ticked = list(dict.fromkeys([*(ticked or []), word]))
            shown = list(dict.fromkeys([*desk.choices(runs, which), *ticked]))
            return "", self.gr.update(choices=shown, value=ticked), ""

        return add

    def on_cancel(self, choice: dict) -> str:
        run = self._shown(choice)
        going = run if run is not None and run.active else self.engine.running()
        if going is None:
            return views.note("Nothing is running.")
        return self._tried(lambda: self.engine.cancel(going.id))

    def on_resume(self, choice: dict) -> str:
        run = self._shown(choice)
        return "" if run is None else self._tried(lambda: self.engine.resume(run.id))

    def on_attack(self, choice: dict) -> tuple:
        run = self._shown(choice)
        if run is None:
            return choice, views.note("Erase something first.")
        try:
            attack = desk.start_attack(self.engine, run)
        except SageError as error:
            return choice, views.alert(str(error))
        return choice | {"shown": attack.id}, ""

    def on_history(self, choice: dict, run_id: str | None) -> dict:
        return choice | {"shown": run_id} if run_id else choice

    def on_forget(self, run_id: str | None) -> str:
        return self._tried(lambda: self.engine.forget(run_id or ""))

    def on_lora(self, label: str | None) -> str:
        if not label:
            return ""
        try:
            text = views.recipe(self.engine.places.lora(label), label, key_of(label))
        except SageError as error:
            text = views.alert(str(error))
        return f'<div class="sage-run">{text}</div>'

    def on_refresh_loras(self):
        loras = self.engine.places.list_loras()
        newest = max(loras, key=lambda label: loras[label].stat().st_mtime, default=None)
        return self.gr.update(choices=list(loras), value=newest)

    def on_repeat(self, choice: dict, model: str, label: str | None) -> tuple:
        try:
            run = desk.repeat(self.engine, model, label or "")
        except SageError as error:
            return choice, views.alert(str(error))
        return choice | {"shown": run.id}, ""

    def _tried(self, action) -> str:
        try:
            action()
        except SageError as error:
            return views.alert(str(error))
        return ""

    # ---- news ----

    def on_tick(self, choice: dict, sent: dict) -> tuple:
        """What has changed since the browser last asked; what is unchanged is not drawn again."""
        run = self._shown(choice)
        runs = desk.found_words(self.engine, tuple(choice["words"]))
        ready = len(runs) == len(choice["words"]) > 0
        news: dict[str, Any] = {
            "queue": views.queue_line(self.engine),
            "shown": self._shown_html(choice, run),
            "history": views.history(self.engine),
            "cancel": (run is not None and run.active) or self.engine.running() is not None,
            "resume": run is not None and run.status in ("failed", "cancelled"),
            "attack": self._target(run) is not None,
            "words": tuple(choice["words"]) if ready else (),
        }
        seen = {name: _mark(value) for name, value in news.items()}
        new = {name for name in news if sent.get(name) != seen[name]}
        if not new:
            return (sent, *[self.gr.update()] * 9)
        update = self.gr.update
        lists = [update(), update(), update()]
        if "words" in new:
            means, close = desk.choices(runs, "means"), desk.choices(runs, "close")
            lists = [
                update(visible=ready),
                update(choices=means, value=means),
                update(choices=close, value=close),
            ]
        return (
            seen,
            update(value=news["queue"]) if "queue" in new else update(),
            update(value=news["shown"]) if "shown" in new else update(),
            update(choices=news["history"]) if "history" in new else update(),
            *(update(interactive=news[n]) if n in new else update() for n in ("cancel", "resume", "attack")),
            *lists,
        )

    def _shown(self, choice: dict) -> Run | None:
        """What this browser looks at: what it chose, what is running, or the latest."""
        try:
            if choice["shown"]:
                return self.engine.get(choice["shown"])
        except SageError:
            pass  # it was removed, perhaps by another browser
        runs = [run for run in self.engine.runs() if run.kind != "words"]
        return self.engine.running() or next(iter(runs), None)

    def _shown_html(self, choice: dict, run: Run | None) -> str:
        target = self._target(run)
        if run is not None and run.kind == "attack" and run.status == DONE and target is not None:
            run = target  # the erasure, with the attack's result below it
        return views.shown_run(self.engine, run)

    def _target(self, run: Run | None) -> Run | None:
        """The finished erasure that the red team would attack."""
        if run is not None and run.kind == "attack":
            run = next((r for r in self.engine.runs() if r.id in run.parts), None)
        return run if run is not None and run.kind == "erase" and run.status == DONE else None


def _form(choice: dict, values: tuple) -> Form:
    model, concepts, method, kind, becomes, seed, steps, resolution, means, close = values
    words = tuple(choice["words"])
    lists = (tuple(means or ()), tuple(close or ())) if words else (None, None)
    return Form(model, concepts, method, kind, becomes, seed, steps, resolution, *lists, words)


def _mark(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
