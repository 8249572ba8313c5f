"""Who may ask the panel what: every request passes here first, and what is refused gets one sentence."""

from __future__ import annotations

import contextlib
import hmac
import html
import re
import secrets
import threading
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COOKIE = "sage_panel"
PAGE = 2 * 1024 * 1024  # bytes of a request that is no upload
TRIES, WINDOW = 10, 60.0  # wrong passwords in so many seconds
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
LOGIN, UPLOAD = "/sage/login", "/sage/upload"
# What gradio's page needs, of all versions, without the prefix of newer ones. Its routes for files, uploads
# and proxies are not among it: the panel has its own.
ALLOWED = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|info|app_id|startup-events|reset|cancel"
    r"|queue/(join|data|status)|run/(predict|\d+)|api/predict|heartbeat/[\w-]+|pwa_icon(/\d+)?)/?"
    r"|/(assets|static|svelte|_app)/[\w./@+-]+"
    r"|/sage/(login|alive|upload|run/[\w-]+/[\w.-]+|opened/[\w.-]+/workflow\.json)"
)
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:;"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:;"
    " connect-src 'self' ws: wss: data:; object-src 'none';"
    " frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
LOGIN_PAGE = """<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width"><title>SAGE Concept Eraser</title>
<style>:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 22rem; margin: 15vh auto; padding: 0 1rem }}
input, button {{ font: inherit; padding: .5rem; width: 100%; box-sizing: border-box; margin: .3rem 0 }}
</style><h1>SAGE Concept Eraser</h1><form method=post action=login><label>Password
<input type=password name=password autocomplete=current-password autofocus></label>
<p role=alert>{message}</p><button>Open the panel</button></form></html>"""

Header = Callable[[str], str]


def header_of(scope: dict[str, Any]) -> Header:
    """Looks a header up; empty where it is not there."""
    values = {name.lower(): value for name, value in scope.get("headers", [])}
    return lambda name: values.get(name.lower().encode(), b"").decode("latin-1")


def cross_site(header: Header) -> str:
    """Why a request comes from another site; empty where it comes from the panel's own page."""
    host = header("host").lower()
    origin = header("origin")
    if origin and (origin == "null" or urlsplit(origin).netloc.lower() != host):
        return f"The request comes from another site ({origin[:80]}); open the panel's own page and use that."
    if header("sec-fetch-site") in ("cross-site", "same-site"):
        return "The request comes from another site; open the panel's own page and use that."
    return ""


def bad_path(scope: dict[str, Any]) -> str:
    """Why a path is refused; empty for one that stays where it points."""
    raw = scope.get("raw_path") or scope.get("path", "").encode()
    text = raw.decode("latin-1").split("?")[0]
    for _ in range(3):  # whoever encodes twice is seen too
        decoded = unquote(text)
        if decoded == text:
            break
        text = decoded
    parts = text.replace("\\", "/").split("/")
    if ".." in parts or "\\" in text or "\0" in text or "//" in text or ":" in text or "=" in text:
        return f"The path {text[:80]!r} leads out of the panel; only its own pages and files are served."
    return ""


class Guard:
    """ASGI in front of everything.

    hosts: names under which the panel may be asked; None for any (behind a password). most_uploaded: bytes.
    """

    def __init__(self, app, hosts: set[str] | None, password: str | None, most_uploaded: int):
        self.app, self.hosts, self.password, self.most_uploaded = app, hosts, password, most_uploaded
        self.cookies: set[str] = set()
        self._wrong: list[float] = []
        self._lock = threading.Lock()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refused = self.refusal(scope)
        if refused is not None:
            await _answer(scope, send, *refused)
        elif scope["path"] == LOGIN and scope["type"] == "http":
            await self._login(scope, receive, send)
        elif not self._known(scope):
            await self._ask_password(scope, send)
        elif scope["type"] == "websocket":
            await self.app(scope, receive, send)
        else:
            await self._limited(scope, receive, send)

    def refusal(self, scope: dict[str, Any]) -> tuple[int, str] | None:
        """(status, sentence); None where it may pass."""
        header = header_of(scope)
        host = header("host").lower()
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.hosts is not None and name not in self.hosts:
            return (
                403,
                f"The panel is not served under the name {host[:80]!r}; open http://127.0.0.1 instead.",
            )
        if wrong := bad_path(scope):
            return 400, wrong
        path = scope["path"].removeprefix("/gradio_api") or "/"
        if not ALLOWED.fullmatch(path):
            return 404, f"There is nothing at {path[:80]!r} in the panel; open its first page."
        first_page = path == "/" and scope.get("method") == "GET" and not header("origin")
        if not first_page and (wrong := cross_site(header)):
            return 403, wrong
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, f"The panel does not understand {scope['method'][:20]!r}."
        return self._too_large(path, header)

    def _too_large(self, path: str, header: Header) -> tuple[int, str] | None:
        length = header("content-length")
        if length and not length.isdigit():
            return 400, f"The length {length[:40]!r} of the request is no number."
        if length and int(length) > self._most(path):
            return 413, too_large(int(length), self._most(path))
        return None

    def _most(self, path: str) -> int:
        return self.most_uploaded if path == UPLOAD else PAGE

    async def _limited(self, scope, receive, send) -> None:
        """Pass on, and count what comes: a length can be left out or a lie."""
        came, most = 0, self._most(scope["path"])
        begun = False

        async def counted():
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > most:
                raise _TooMuch
            return message

        async def policed(message):
            nonlocal begun
            if came > most:  # what the app makes of the exception above
                return
            if message["type"] == "http.response.start":
                begun = True
                message = message | {"headers": _safe(message.get("headers", []))}
            await send(message)

        with contextlib.suppress(_TooMuch):
            await self.app(scope, counted, policed)
        if came > most and not begun:
            await _answer(scope, send, 413, too_large(came, most))

    # ---- the password ----

    def _known(self, scope) -> bool:
        if self.password is None:
            return True
        try:
            cookie = SimpleCookie(header_of(scope)("cookie")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and cookie.value in self.cookies

    async def _ask_password(self, scope, send) -> None:
        if scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET":
            await _send(send, 303, b"", [(b"location", LOGIN.lstrip("/").encode())])
        else:
            await _answer(
                scope, send, 401, "This needs the panel's password; open its first page and type it."
            )

    async def _login(self, scope, receive, send) -> None:
        if self.password is None:
            await _send(send, 303, b"", [(b"location", b"../")])
            return
        if scope["method"] != "POST":
            await self._page(send, 200, "")
            return
        body = b""
        more = True
        while more and len(body) <= 4096:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        if self._too_often():
            await self._page(send, 429, f"{TRIES} wrong passwords in a minute; wait a minute and try again.")
        elif hmac.compare_digest(given.encode(), self.password.encode()):
            token = secrets.token_urlsafe(32)
            self.cookies.add(token)
            cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/".encode()
            await _send(send, 303, b"", [(b"location", b"../"), (b"set-cookie", cookie)])
        else:
            with self._lock:
                self._wrong.append(time.monotonic())
            await self._page(send, 403, "This is not the password; type it again.")

    def _too_often(self) -> bool:
        with self._lock:
            self._wrong = [t for t in self._wrong if time.monotonic() - t < WINDOW]
            return len(self._wrong) >= TRIES

    async def _page(self, send, status: int, message: str) -> None:
        text = LOGIN_PAGE.format(message=html.escape(message)).encode()
        await _send(send, status, text, [(b"content-type", b"text/html; charset=utf-8")])


class _TooMuch(Exception):
    """More bytes came than are taken."""


def too_large(size: int, most: int) -> str:
    return f"{size / 1e6:.1f} MB were sent, and at most {most / 1e6:.1f} MB are taken; send a smaller file."


SAFE = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]


def _safe(headers: list) -> list:
    """With the headers that keep other sites out, and without those of old versions of gradio that let every
    site in.
    """
    own = [pair for pair in headers if not pair[0].lower().startswith(b"access-control-")]
    there = {name.lower() for name, _ in own}
    return own + [pair for pair in SAFE if pair[0] not in there]


async def _answer(scope, send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4403, "reason": sentence[:120]})
        return
    await _send(send, status, sentence.encode(), [(b"content-type", b"text/plain; charset=utf-8")])


async def _send(send, status: int, body: bytes, headers: list) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length, *SAFE]})
    await send({"type": "http.response.body", "body": body})
