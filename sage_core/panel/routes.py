"""The panel's own routes: files of runs, workflows, uploads. A page names a run and a kind of file, never a
path.

They are the same in a host's server, where they check the site and the token by themselves.
"""

from __future__ import annotations

import html
import json
import re
import secrets
from pathlib import Path
from urllib.parse import quote, unquote

from ..errors import SageError
from .engine import Engine
from .guard import bad_path, cross_site, header_of, too_large

PICTURE = re.compile(r"(live-\d{1,4}|before|after|before_after|attack)\.png")
TOKEN_HEADER = "x-sage-token"
DOWNLOADS = {".safetensors": "application/octet-stream", ".json": "application/json", ".html": "text/html"}


class Routes:
    """Answers for one engine. token: only the panel's own page knows it."""

    def __init__(self, engine: Engine):
        self.engine, self.places = engine, engine.places
        self.token = secrets.token_urlsafe(24)

    def put_into(self, app) -> None:
        """Before all other routes of a FastAPI or Starlette app; once."""
        from starlette.routing import Route

        routes = app.router.routes
        if any(getattr(route, "name", "") == "sage-file" for route in routes):
            routes[:] = [r for r in routes if not getattr(r, "name", "").startswith("sage-")]
        routes.insert(0, Route("/sage/run/{run}/{name}", self.file, methods=["GET"], name="sage-file"))
        path = "/sage/opened/{name}/workflow.json"
        routes.insert(0, Route(path, self.opened_workflow, methods=["GET"], name="sage-workflow"))
        routes.insert(0, Route("/sage/alive", _alive, methods=["GET"], name="sage-alive"))
        routes.insert(0, Route("/sage/upload", self.upload, methods=["POST"], name="sage-upload"))

    # ---- what is asked for ----

    def file(self, request):
        """A picture, the report, the LoRA or the workflow of a run."""
        try:
            self._check(request)
            run = self.engine.get(request.path_params["run"])
            name = request.path_params["name"]
            folder = self.places.runs / run.id
            if PICTURE.fullmatch(name) or name in ("report.html", "report.json"):
                return self._from_disk(folder / name)
            if name == "lora":
                return self._from_disk(self.lora_of(run), download=True)
            if name == "workflow.json":
                return self._workflow(self.lora_of(run))
            raise SageError(f"There is no {name[:60]!r} in a run; use the links on the page.")
        except SageError as error:
            return _sentence(404, error)

    def opened_workflow(self, request):
        """The workflow of a listed LoRA; the name is its label, with hyphens for what a path has not."""
        try:
            self._check(request)
            wanted = request.path_params["name"]
            for label, path in self.places.list_loras().items():
                if key_of(label) == wanted:
                    return self._workflow(path)
            raise SageError("This LoRA is no longer in the list; press Refresh and choose one.")
        except SageError as error:
            return _sentence(404, error)

    async def upload(self, request):
        """The body is the file; its name is in a header."""
        from starlette.concurrency import run_in_threadpool

        try:
            self._check(request)
            if not secrets.compare_digest(request.headers.get(TOKEN_HEADER, ""), self.token):
                raise SageError(
                    "The upload does not come from the panel's page; reload the page and try again."
                )
            content = bytearray()
            async for part in request.stream():
                content += part
                if len(content) > self.places.most_uploaded:
                    raise SageError(too_large(len(content), self.places.most_uploaded))
            name = unquote(request.headers.get("x-sage-name", ""))
            label = await run_in_threadpool(self.places.keep_upload, name, bytes(content))
        except SageError as error:
            return _sentence(400, error)
        return _text(200, label)

    def lora_of(self, run) -> Path:
        """Raises SageError where it is gone."""
        lora = run.result.get("lora")
        path = None if not lora else (self.places.loras / lora)
        if (
            path is None
            or not path.is_file()
            or not path.resolve().is_relative_to(self.places.loras.resolve())
        ):
            raise SageError("The LoRA of this run is not there any more; erase again.")
        return path

    def _check(self, request) -> None:
        wrong = bad_path(request.scope) or cross_site(header_of(request.scope))
        if wrong:
            raise SageError(wrong)

    def _from_disk(self, path: Path, download: bool = False):
        from starlette.responses import FileResponse

        if not path.is_file():
            raise SageError(f"{path.name} is not there yet; wait until the run is done.")
        kind = "image/png" if path.suffix == ".png" else DOWNLOADS[path.suffix]
        headers = {"Cache-Control": "private, max-age=3600" if path.suffix == ".png" else "no-store"}
        if path.suffix == ".html":
            headers["Content-Security-Policy"] = (
                "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline';"
                " script-src 'unsafe-inline'"  # the page's own policy allows its one script, by its hash
            )
        if download:
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(path.name)}"
        return FileResponse(path, media_type=kind, headers=headers)

    def _workflow(self, path: Path):
        from starlette.responses import Response

        from ..lora.file import read_lora
        from .workflow import file_name, workflow_of

        file = read_lora(path)
        text = json.dumps(workflow_of(file), indent=1, ensure_ascii=False)
        name = file_name("-".join(spec["concept"] for spec in file.specs()))
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
        return Response(text, media_type="application/json", headers=headers)


def _alive(request):
    """Asked by every page before it asks for news."""
    return _text(200, "yes")


def key_of(label: str) -> str:
    """A LoRA's label as one part of an address."""
    import hashlib

    return hashlib.sha256(label.encode()).hexdigest()[:24]


def _text(status: int, text: str):
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(text, status_code=status)


def _sentence(status: int, error: SageError):
    return _text(status, html.unescape(str(error)))
