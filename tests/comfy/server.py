"""A real ComfyUI server for tests: started on a free port with a temporary base directory, stopped by its
process id.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PACK = Path(__file__).parents[2]
READY = 180  # seconds
LONG = bool(os.environ.get("SAGE_LONG"))  # the long mode of the integration tests


def find_comfies() -> list[Path]:
    """The folders in COMFYUI_PATH (several are separated as in PATH), else ~/ComfyUI.

    Raises where a named one is missing.
    """
    named = [Path(p) for p in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if p]
    if missing := [p for p in named if not (p / "main.py").is_file()]:
        raise FileNotFoundError(f"COMFYUI_PATH names {missing[0]}, which holds no ComfyUI (no main.py)")
    return named or [p for p in [Path.home() / "ComfyUI"] if (p / "main.py").is_file()]


def version_of(comfy: Path) -> str:
    return re.search(r'__version__ = "(.+)"', (comfy / "comfyui_version.py").read_text(encoding="utf-8"))[1]


def front_end_of(comfy: Path) -> list[str]:
    """Arguments that start the front end this ComfyUI asks for, where it lies in ComfyUI's folder for other
    versions.

    Several ComfyUIs can share one environment then, although each wants its own comfyui-frontend-package.
    """
    wanted = re.search(
        r"comfyui-frontend-package==(\S+)", (comfy / "requirements.txt").read_text(encoding="utf-8")
    )[1]
    there = comfy / "web_custom_versions" / "Comfy-Org_ComfyUI_frontend" / wanted
    return ["--front-end-version", f"Comfy-Org/ComfyUI_frontend@v{wanted}"] if there.is_dir() else []


def python_of(comfy: Path) -> Path:
    own = [comfy / ".venv" / "bin" / "python", comfy / ".venv" / "Scripts" / "python.exe"]
    return Path(os.environ.get("COMFYUI_PYTHON") or next((p for p in own if p.exists()), own[0]))


def result_of(comfy: Path, script: Path, *arguments: object) -> dict:
    """What a script found that ran in ComfyUI's Python and folder; it is given both folders, then the
    arguments, and prints RESULT and JSON in one line.
    """
    command = list(map(str, [python_of(comfy), script, comfy, PACK, *arguments]))
    done = subprocess.run(command, cwd=comfy, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lora key not loaded" not in done.stderr and "NOT LOADED" not in done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    return json.loads(line.removeprefix("RESULT"))


def there(found: dict, comfy: Path, what: object) -> dict:
    """What a script found; the test is skipped where it says that this ComfyUI lacks what it asks for."""
    if "missing" in found:
        pytest.skip(f"ComfyUI {version_of(comfy)} has no {what}")
    return found


@dataclass
class Outcome:
    """A finished prompt: node outputs, or what went wrong; `events`: (type, data) in order."""

    status: str
    outputs: dict
    messages: list = field(default_factory=list)
    error: str | None = None
    interrupted: bool = False


class Server:
    """One ComfyUI process. Use it as a context manager."""

    def __init__(self, comfy: Path, base: Path, *args: str):
        self.comfy, self.base, self.args = comfy, base, args
        self.port = _free_port()
        self.log = base / "comfy.log"
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        for name in ("custom_nodes", "models/loras", "models/checkpoints", "input", "output", "temp", "user"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        link = self.base / "custom_nodes" / "sage-concept-eraser"
        if not link.exists():
            link.symlink_to(PACK, target_is_directory=True)
        command = [
            str(python_of(self.comfy)),
            "main.py",
            "--cpu",
            "--port",
            str(self.port),
            "--base-directory",
            str(self.base),
            "--disable-auto-launch",
            "--database-url",
            f"sqlite:///{self.base}/user/comfyui.db",
            *front_end_of(self.comfy),
            *self.args,
        ]
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.base / "hf"),
            "PYTHONUNBUFFERED": "1",
        }
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.comfy, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        self._wait_ready()
        return self

    def __exit__(self, *exc) -> None:
        self.stop()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def _wait_ready(self) -> None:
        start = time.monotonic()
        while time.monotonic() - start < READY:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self.process.returncode}:\n{self.text()[-3000:]}")
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        self.stop()
        raise RuntimeError(f"ComfyUI did not start in {READY} s:\n{self.text()[-3000:]}")

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str):
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.loads(answer.read())

    def post(self, path: str, data: object) -> tuple[int, dict]:
        """(HTTP status, answer). NaN goes out as Python writes it, which ComfyUI's own parser accepts."""
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                raw = answer.read()
                return answer.status, json.loads(raw) if raw else {}
        except urllib.error.HTTPError as error:
            raw = error.read()
            try:
                return error.code, json.loads(raw)
            except ValueError:
                return error.code, {"raw": raw.decode(errors="replace")}

    def queue(self, prompt: dict) -> str:
        """Queue a prompt in API format; its id. Raises AssertionError where it is refused."""
        status, answer = self.post("/prompt", {"prompt": prompt, "client_id": uuid.uuid4().hex})
        assert status == 200, answer
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 300) -> Outcome:
        start = time.monotonic()
        while time.monotonic() - start < timeout:
            if (entry := self.get(f"/history/{prompt_id}").get(prompt_id)) is not None:
                return _outcome(entry)
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI died:\n{self.text()[-3000:]}")
            time.sleep(0.2)
        raise TimeoutError(f"prompt {prompt_id} did not end in {timeout} s:\n{self.text()[-2000:]}")

    def run(self, prompt: dict, timeout: float = 300) -> Outcome:
        return self.wait(self.queue(prompt), timeout)

    def image(self, entry: dict) -> bytes:
        query = urllib.parse.urlencode(
            {"filename": entry["filename"], "subfolder": entry["subfolder"], "type": entry["type"]}
        )
        with urllib.request.urlopen(f"{self.url}/view?{query}", timeout=30) as answer:
            return answer.read()

    def memory_mb(self) -> float:
        """Resident memory of the server."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("no VmRSS")


def _outcome(entry: dict) -> Outcome:
    messages = entry["status"]["messages"]
    errors = [data for kind, data in messages if kind == "execution_error"]
    interrupted = any(kind == "execution_interrupted" for kind, _ in messages)
    return Outcome(
        entry["status"]["status_str"],
        entry["outputs"],
        messages,
        errors[0]["exception_message"] if errors else None,
        interrupted,
    )


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def cached(outcome: Outcome) -> list[str]:
    """Ids of the nodes that were taken from the cache."""
    return next((data["nodes"] for kind, data in outcome.messages if kind == "execution_cached"), [])
