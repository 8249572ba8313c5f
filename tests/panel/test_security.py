"""Attempts to read, write or start what one may not, over the whole server. None succeeds; each gets a
sentence.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import struct
from pathlib import Path

import pytest
import torch

SECRET = "the secret of another folder"
HOST = "127.0.0.1:7870"
PAGE = {"host": HOST, "origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}


def ask(app, method: str, path: str, headers: dict | None = None, body: bytes = b"", pieces: int = 1):
    """(status, headers, body) of a request whose path goes out exactly as it is written."""
    given = {"host": HOST} | (headers or {})
    plain, _, query = path.partition("?")
    from urllib.parse import unquote

    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method},
        **{"scheme": "http", "path": unquote(plain), "raw_path": plain.encode(), "root_path": ""},
        "query_string": query.encode(),
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in given.items() if v is not None],
        **{"client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 7870), "state": {}},
    }
    size = -(-len(body) // pieces) if body else 0
    parts = [body[i : i + size] for i in range(0, len(body), size)] if body else [b""]
    sent, out = list(parts), {"body": b""}

    async def receive():
        if not sent:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": sent.pop(0), "more_body": bool(sent)}

    async def send(message):
        if message["type"] == "http.response.start":
            out["status"], out["headers"] = message["status"], dict(message["headers"])
        else:
            out["body"] += message.get("body", b"")

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 60))
    return out["status"], out["headers"], out["body"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(app, engine, token, folder) of a panel that has one finished run; its worker is never started."""
    pytest.importorskip("gradio", reason="NO GRADIO FOUND: the panel's server was NOT attacked")
    from sage_core.panel import serve
    from sage_core.panel.engine import Engine
    from sage_core.panel.places import Places

    folder = tmp_path_factory.mktemp("panel")
    (folder / "secret.txt").write_text(SECRET, encoding="utf-8")
    (folder / "secret.safetensors").write_bytes(SECRET.encode())
    places = Places(folder / "home", folder / "home" / "loras", most_uploaded=200_000)
    engine = Engine(places)
    tokens = []
    routes = serve.Routes

    class Noted(routes):
        def __init__(self, engine):
            super().__init__(engine)
            tokens.append(self.token)

    serve.Routes = Noted
    try:
        app = serve.make_app(engine)
    finally:
        serve.Routes = routes
    return app, engine, tokens[0], folder


def safetensors(header: bytes, tail: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + tail


class Explodes:
    def __reduce__(self):
        return (Path.write_text, (Path("exploded"), "x"))


NAN = json.dumps({"a.lora_down.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}).encode()
LONG = b'{"a": ' + b"[" * 50_000
UPLOADS = {
    "a pickle under the right name": ("a.safetensors", pickle.dumps(Explodes())),
    "a pickle under its own name": ("a.ckpt", pickle.dumps(Explodes())),
    "a name with a way out": ("../../../secret.safetensors", b"x" * 100),
    "a name with Windows' way out": ("..\\..\\secret.safetensors", b"x" * 100),
    "an absolute name": ("/etc/cron.d/x.safetensors", b"x" * 100),
    "no content": ("a.safetensors", b""),
    "a header longer than the file": ("a.safetensors", struct.pack("<Q", 2**62) + b"{}"),
    "a header that is no JSON": ("a.safetensors", safetensors(b"{{{{")),
    "a header of open brackets": ("a.safetensors", safetensors(LONG)),
    "a tensor beyond the file's end": ("a.safetensors", safetensors(NAN.replace(b"4]}", b"9999]}"))),
    "numbers that are none": ("a.safetensors", safetensors(NAN, struct.pack("<f", float("nan")))),
    "a zip": ("a.safetensors", b"PK\x03\x04" + b"\0" * 300),
}


def upload(token: str, name: str, **other) -> dict:
    from urllib.parse import quote

    return PAGE | {"x-sage-token": token, "x-sage-name": quote(name)} | other


def is_a_sentence(body: bytes) -> bool:
    text = body.decode("utf-8")
    return " " in text and len(text) > 20 and "Traceback" not in text and SECRET not in text


RUN = "20260101-000000-000000-0123456789abcdef"
READS = {
    "gradio's file route": "/file=/etc/passwd",
    "gradio's file route, relative": "/file=../secret.txt",
    "gradio's older file route": "/file/etc/passwd",
    "gradio's newer file route": "/gradio_api/file=/etc/passwd",
    "gradio's proxy": "/proxy=http://127.0.0.1:1/x",
    "dots": "/sage/run/../../secret.txt",
    "encoded dots": "/sage/run/%2e%2e/%2e%2e/secret.txt",
    "dots encoded twice": "/sage/run/%252e%252e/%252e%252e/secret.txt",
    "backslashes": "/sage/run/..%5c..%5csecret.txt",
    "a run's own record": f"/sage/run/{RUN}/run.json",
    "a run that is none": "/sage/run/x/report.html",
    "a workflow of a file elsewhere": "/sage/opened/secret.safetensors/workflow.json",
    "a null byte": f"/sage/run/{RUN}/before.png%00",
    "the folder of assets": "/assets/../../../etc/passwd",
    "gradio's component server": "/component_server",
    "gradio's monitoring": "/monitoring/x",
    "gradio's upload route": "/upload",
}


@pytest.mark.parametrize("what", READS)
def test_no_path_leads_out(built, what):
    app, _, _, _ = built
    for method in ("GET", "POST"):
        status, _, body = ask(app, method, READS[what], PAGE)
        assert 400 <= status < 500 and is_a_sentence(body), (method, status, body[:200])


@pytest.mark.parametrize("what", UPLOADS)
def test_no_hostile_upload_is_kept(built, what):
    app, engine, token, folder = built
    name, content = UPLOADS[what]
    before = sorted(path for path in folder.rglob("*") if path.is_file())
    status, _, body = ask(app, "POST", "/sage/upload", upload(token, name), content)
    assert status == 400 and is_a_sentence(body), (status, body[:200])
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == before
    assert not Path("exploded").exists()


def test_an_upload_that_is_too_large_is_refused_whatever_it_says_of_its_length(built):
    app, engine, token, _ = built
    huge = b"x" * 300_000
    for length in (str(len(huge)), "10", None):
        headers = upload(token, "a.safetensors", **{"content-length": length})
        status, _, body = ask(app, "POST", "/sage/upload", headers, huge, pieces=30)
        assert status in (400, 413) and b"0.2 MB are taken" in body
    status, _, body = ask(app, "POST", "/sage/upload", upload(token, "a", **{"content-length": "many"}), b"x")
    assert status == 400 and is_a_sentence(body)
    import gradio

    prefix = "/gradio_api" if int(gradio.__version__.split(".")[0]) >= 5 else ""
    status, _, body = ask(app, "POST", f"{prefix}/run/predict", PAGE, b"x" * 3_000_000, pieces=30)
    assert status == 413 and is_a_sentence(body), "gradio gets no large body either"
    assert not engine.places.uploads.exists() or not list(engine.places.uploads.iterdir())


SITES = {
    "another site's form": {"origin": "http://evil.example"},
    "a page from a file": {"origin": "null"},
    "the same machine, another port": {"origin": "http://127.0.0.1:1"},
    "another site without an origin": {"sec-fetch-site": "cross-site"},
    "a name that was bound to this machine": {
        "host": "evil.example:7870",
        "origin": "http://evil.example:7870",
    },
    "a picture of another site": {"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"},
}


@pytest.mark.parametrize("what", SITES)
def test_no_other_site_can_use_the_panel(built, what):
    app, engine, token, _ = built
    headers = {"x-sage-token": token} | SITES[what]
    for method, path in (
        *(("POST", "/run/predict"), ("POST", "/gradio_api/run/predict"), ("POST", "/queue/join")),
        *(("POST", "/sage/upload"), ("GET", "/config"), ("GET", f"/sage/run/{RUN}/before.png")),
    ):
        status, answer, body = ask(app, method, path, headers, b"{}")
        assert status == 403 and is_a_sentence(body), (method, path, status)
        assert not [name for name in answer if name.lower().startswith(b"access-control")]
    assert engine.runs() == []


def test_an_upload_without_the_page_s_token_is_refused(built):
    app, _, _, _ = built
    status, _, body = ask(app, "POST", "/sage/upload", upload("guessed", "a.safetensors"), b"x")
    assert status == 400 and b"reload the page" in body


def test_odd_methods_are_refused(built):
    app, _, _, _ = built
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        status, _, body = ask(app, method, "/", PAGE)
        assert status in (403, 405) and is_a_sentence(body)


def test_the_page_itself_is_served_and_tells_the_browser_to_stay_here(built):
    app, _, _, _ = built
    status, headers, body = ask(app, "GET", "/")
    assert status == 200 and b"gradio" in body.lower()
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "https:" not in policy


def test_a_lora_is_kept_under_a_plain_name_and_its_words_are_shown_as_text(built):
    """Metadata of a stranger's file must not become part of the page."""
    from safetensors.torch import save

    from sage_core.panel.routes import key_of
    from sage_core.panel.views import recipe

    app, engine, token, folder = built
    evil = "<img src=x onerror=alert(1)>"
    tensors = {"lora_te_x.lora_down.weight": torch.ones(1, 2), "lora_te_x.lora_up.weight": torch.ones(2, 1)}
    spec = json.dumps({"concept": evil, "method": evil})
    content = save(tensors, {"sage.spec": spec, "modelspec.title": evil})
    status, _, body = ask(app, "POST", "/sage/upload", upload(token, "../<b>x.safetensors"), content)
    assert status == 200
    label = body.decode()
    path = engine.places.lora(label)
    assert path.parent == engine.places.uploads and "<" not in path.name and ".." not in path.name
    page = recipe(path, label, key_of(label))
    assert "<img" not in page and "&lt;img" in page
    status, _, body = ask(app, "GET", f"/sage/opened/{key_of(label)}/workflow.json")
    assert status == 404 and is_a_sentence(body), "what this file says is no erasure"
    path.unlink()


def test_strangers_get_nothing_without_the_password(built, tmp_path):
    from sage_core.errors import SageError
    from sage_core.panel.guard import TRIES
    from sage_core.panel.serve import check_serving, make_app

    _, engine, _, _ = built
    for listen, password in ((True, None), (True, ""), (True, "short"), (False, "short")):
        with pytest.raises(SageError):
            check_serving(listen, password)
    app = make_app(engine, listen=True, password="correct horse")
    elsewhere = {"host": "192.168.0.5:7870"}
    status, headers, _ = ask(app, "GET", "/", elsewhere)
    assert status == 303 and headers[b"location"] == b"sage/login"
    for method, path in (
        ("GET", "/config"),
        ("POST", "/run/predict"),
        ("GET", f"/sage/run/{RUN}/before.png"),
    ):
        status, _, body = ask(app, method, path, elsewhere)
        assert status == 401 and is_a_sentence(body)
    for cookie in ("sage_panel=x", "sage_panel=", "\x01;;", "sage_panel=../../x"):
        assert ask(app, "GET", "/config", elsewhere | {"cookie": cookie})[0] == 401
    right = b"password=correct+horse"
    status, headers, _ = ask(app, "POST", "/sage/login", elsewhere, right)
    cookie = headers[b"set-cookie"].decode()
    assert status == 303 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert ask(app, "GET", "/config", elsewhere | {"cookie": cookie.split(";")[0]})[0] == 200
    wrong = [ask(app, "POST", "/sage/login", elsewhere, b"password=x") for _ in range(TRIES + 1)]
    assert [status for status, _, _ in wrong] == [403] * TRIES + [429]
    assert ask(app, "POST", "/sage/login", elsewhere, right)[0] == 429, "guessing is slow"
