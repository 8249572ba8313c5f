"""Writes example_workflows/: the graphs laid out on the real page, and their pictures. Run it by hand."""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import graphs
import page as pages
import server
from PIL import Image

FOLDER = server.PACK / "example_workflows"
IMAGES = server.PACK / "docs" / "images"
TEST_PROMPTS = ["2", 5]  # the output of Erase Concept
REST = {
    "retain": "",
    "surface": "as the method has it",
    "rank": 0,
    "strength": 0.0,
    "resolution": 0,
    "kind": "automatic",
    "exclude": "",
    "search": True,
}
GUARDED_PROMPTS = "\n".join(
    ["a picture of a dog", "a cartoon drawing of a puppy", "a hound", "a picture of a cat", "a pizza"]
)
NOTE = {
    "erase-and-compare": (
        """**Press Run.** The bundled model is loaded, *dog* is erased while you watch, \
and the same prompts are drawn before and after.

The LoRA is saved as `models/loras/sage/erased-dog.safetensors`. Run it again: nothing is trained twice.

Then type another concept (the bundled model draws 117 things): the prompts that are compared follow it.
Or put *Erase Concept* behind your own checkpoint loader."""
    ),
    "erase-from-a-flow-transformer": (
        """**Press Run.** The bundled flow transformer has Stable Diffusion 3's architecture, four blocks \
small. The same nodes erase from it; sample it with *euler* and *simple*.

Put *Erase Concept* behind your own SD 3 or SD 3.5 checkpoint with CLIP-L and CLIP-G."""
    ),
    "erase-behind-a-checkpoint": (
        """**Choose your checkpoint** (Stable Diffusion 1.x, 2.x or SDXL), type what to erase, press Run.

Use the MODEL **and** the CLIP that come out of *Erase Concept*: both are changed."""
    ),
    "stack-three-erasures": (
        """Three concepts: a LoRA each, and one of all that is passed on.

**To take one out again**, load the single ones with *Apply Erasures* instead: choose the files \
under `sage/` there, and `none` for the one that may come back."""
    ),
    "guard-without-training": (
        """**Press Run.** Nothing is trained: *Concept Guard* watches the sampler and takes out of each step \
what draws a dog.

It sees what is being drawn, not what was asked, so *puppy* and *hound* go as well. Cats and pizzas stay.

Put it behind *Erase Concept* where prompts come from strangers, and link *model_before*."""
    ),
    "report-an-erasure": (
        """**Press Run.** *dog* is erased, then measured: the concept, other words for it, its neighbours \
and other things, before and after, from the same seeds.

The page is saved in `output/sage`; its path is in the last box. Open it in a browser.

Turn *attack* on to see what learnt words bring back. With your own checkpoint set *size* to what it draws."""
    ),
    "attack-and-guard": (
        """**Press Run.** *dog* is erased. Then *Red Team* learns words that bring it back. They are drawn \
twice: with the erased model, and with *Concept Guard* on it.

An erasure does not withstand whoever learns embeddings for it. The guard sees what is drawn."""
    ),
    "erase-from-sdxl": (
        """**Choose an SDXL checkpoint.**

Training is done at 768 pixels here to spare memory; set *resolution* to 0 for the model's own size."""
    ),
}


def checkpoint_graph(name: str, size: int, resolution: int) -> dict:
    graph = graphs.erase(
        "dog | puppy, hound",
        loader=graphs.checkpoint(name),
        **REST | {"retain": "wolf, fox, cat", "resolution": resolution},
    )
    return graphs.draw(
        graph,
        3,
        ["2", 0],
        ["2", 1],
        "a photo of a dog on a sofa",
        1,
        size=size,
        prefix="erased",
        guidance=7.0,
    )


def workflows() -> dict[str, tuple[dict, dict[str, tuple[int, int]]]]:
    """API-format graph and where its nodes are."""
    chain = {
        "1": (0, 0),
        "2": (420, 0),
        "3": (900, 0),
        "4": (900, 240),
        "5": (900, 480),
        "6": (1360, 0),
        "7": (1720, 0),
        "8": (1720, 120),
    }
    demo = graphs.compare(graphs.erase("dog", **REST), "3", TEST_PROMPTS, 1)
    flow = {"class_type": "SAGE_LoadDemoModel", "inputs": {"architecture": "flow transformer (SD 3)"}}
    erased_flow = graphs.erase("castle", loader=flow, **REST)
    stack = graphs.compare(graphs.erase("dog\npizza\ntrain", **REST), "3", TEST_PROMPTS, 1)
    attacked = {
        "1": (0, 0),
        "2": (300, 0),
        "3": (820, 0),
        "4": (820, 380),
        "11": (1180, 0),
        "12": (1180, 180),
        "13": (1540, 0),
        "14": (1880, 0),
        "15": (2080, 0),
        "21": (1180, 420),
        "22": (1180, 600),
        "23": (1540, 420),
        "24": (1880, 420),
        "25": (2080, 420),
    }
    three = {"1": (0, 0), "2": (300, 0), "3": (820, 0)}
    return {
        "erase-and-compare": (demo, three),
        "erase-from-a-flow-transformer": (graphs.compare(erased_flow, "3", TEST_PROMPTS, 1), three),
        "attack-and-guard": (graphs.attacked_and_guarded(), attacked),
        "report-an-erasure": (
            graphs.report(graphs.erase("dog", **REST), "3", "dog"),
            {"1": (0, 0), "2": (300, 0), "3": (820, 0), "4": (1300, 0), "5": (1300, 420)},
        ),
        "guard-without-training": (graphs.guarded("dog", GUARDED_PROMPTS), three),
        "stack-three-erasures": (stack, three),
        "erase-behind-a-checkpoint": (
            checkpoint_graph("v1-5-pruned-emaonly-fp16.safetensors", 512, 0),
            chain,
        ),
        "erase-from-sdxl": (checkpoint_graph("sd_xl_base_1.0.safetensors", 1024, 768), chain),
    }


def lay_out(page, name: str, graph: dict, places: dict) -> dict:
    """The workflow as the page saves it.

    As text: Playwright would turn `undefined`, which JSON leaves out, into null, and the front end refuses
    those.
    """
    pages.show(page, graph, name)
    text = page.evaluate(
        """([places, note]) => {
        const graph = window.app.graph;
        for (const [id, pos] of Object.entries(places)) {
            const n = graph.getNodeById(Number(id));
            n.pos = pos;
            n.setSize(n.computeSize());
        }
        // Room for pictures or text below the widgets.
        const room = {
            SAGE_EraseConcept: 240, SAGE_CompareErasure: 440, SAGE_ErasureReport: 440, PreviewAny: 200,
        };
        for (const n of graph._nodes) {
            if (n.comfyClass in room) n.setSize([440, n.computeSize()[1] + room[n.comfyClass]]);
        }
        const text = window.LiteGraph.createNode('MarkdownNote');
        text.pos = [0, 220]; graph.add(text); text.setSize([270, 330]); text.widgets[0].value = note;
        window.app.canvas.ds.scale = 0.8;
        window.app.canvas.ds.offset = [120, 120];
        graph.setDirtyCanvas(true, true);
        return JSON.stringify(graph.serialize());
    }""",
        [places, NOTE[name]],
    )
    return json.loads(text)


def thumbnail(picture: Image.Image, path: Path, side: int = 512) -> None:
    picture = picture.convert("RGB")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.save(path, quality=88)


def layouts(running, names: list[str]) -> None:
    """Write the JSON files. Use the oldest ComfyUI: every newer one opens what it wrote."""
    for name in names:
        with pages.opened(running) as (page, _):
            saved = lay_out(page, name, *workflows()[name])
        (FOLDER / f"{name}.json").write_text(
            json.dumps(saved, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def pictures(running, names: list[str]) -> None:
    """Draw the thumbnails and the README's pictures: the result where the bundled model draws it, else the
    graph.
    """
    for name in names:
        with pages.opened(running) as (page, _):
            pages.open_template(page, name)
            text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
            if "SAGE_CompareErasure" in text or "SAGE_ErasureReport" in text:
                run_and_draw(running, page, name)
            elif "SAGE_RedTeam" in text:
                pages.press_run(page)
                outcome = running.wait(_queued(running)[0], 400)
                rows = [outcome.outputs[node]["images"] for node in ("15", "25")]
                thumbnail(_sheet(running, rows), FOLDER / f"{name}.jpg")
            else:
                shot = page.screenshot(clip={"x": 60, "y": 80, "width": 1500, "height": 750})
                thumbnail(Image.open(io.BytesIO(shot)), FOLDER / f"{name}.jpg")


def _sheet(running, rows: list[list[dict]]) -> Image.Image:
    """Saved pictures, a row each list, enlarged without smoothing them away."""
    side = 128
    sheet = Image.new("RGB", (side * len(rows[0]), side * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, about in enumerate(row):
            picture = Image.open(io.BytesIO(running.image(about))).convert("RGB")
            sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x * side, y * side))
    return sheet


def run_and_draw(running, page, name: str) -> None:
    """Queue the workflow; its comparison becomes the thumbnail, and the first example's page the README's
    pictures.
    """
    pages.press_run(page)
    if name == "erase-and-compare":
        pages.wait_face(page, "erasing 1")
        pages.screenshot(page, IMAGES / "comfyui-while-erasing.png")
    outcome = running.wait(_queued(running)[0], 900)
    page.wait_for_selector("text=Saved sage/", state="detached", timeout=60_000)
    if name == "erase-and-compare":
        pages.screenshot(page, IMAGES / "comfyui-erased.png")
    thumbnail(
        Image.open(io.BytesIO(running.image(outcome.outputs["3"]["images"][0]))), FOLDER / f"{name}.jpg"
    )


def main(what: str = "", *names: str) -> None:
    """`layouts` or `pictures`, of the named examples or of all."""
    make = {"layouts": layouts, "pictures": pictures}.get(what)
    if make is None:
        sys.exit("usage: templates.py layouts|pictures [NAME ...]")
    with server.Server(server.find_comfies()[-1], Path(tempfile.mkdtemp())) as running:
        make(running, list(names or workflows()))


def _queued(running) -> list[str]:
    """Ids of running and waiting prompts."""
    while not (found := [item[1] for part in running.get("/queue").values() for item in part]):
        time.sleep(0.2)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
