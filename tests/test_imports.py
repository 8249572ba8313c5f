"""The core is quick to import and knows no host."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "sage_core"
# From the bottom to the top: a room imports only rooms before it (docs/architecture.md).
ROOMS = (
    *("errors", "files", "diffusion", "lora", "prompts", "domain", "guard", "methods", "spec", "progress"),
    *("cycle", "memory", "evaluate", "jobs", "demo", "models", "bench", "panel", "cli"),
)
KNOW_GRADIO = ("panel/compat.py", "panel/hosted.py")  # the page takes it from the first
HOSTS = {"comfy", "comfy_api", "folder_paths", "server", "modules", "gradio", "nodes"}


def test_importing_the_core_is_quick_and_loads_no_heavy_library():
    code = (
        "import sys; import sage_core; print(sorted(set(sys.modules) & {'torch', 'diffusers', 'transformers',"
        " 'gradio', 'comfy', 'peft'}))"
    )
    times = []
    for _ in range(3):
        start = time.monotonic()
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
        ).stdout
        times.append(time.monotonic() - start)
        assert out.strip() == "[]"
    assert min(times) < 1.0


@pytest.mark.parametrize(
    "path", sorted((ROOT / "sage_core").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_core_imports_no_host_and_runs_no_code_from_text(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {
        n.module.split(".")[0]
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and n.module and not n.level
    }
    allowed = {"gradio"} if path.relative_to(CORE).as_posix() in KNOW_GRADIO else set()
    assert not imported & (HOSTS - allowed)
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not called & {"eval", "exec"} and "pickle" not in imported


# Edges and tools; the rest is the core.
KNOW_THE_BUNDLED_MODEL = ("demo/", "models.py", "cli/", "bench/", "panel/")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "sage_core").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_core_does_not_know_the_bundled_model(path):
    """What is special about it reaches the core as a value (knowledge.py)."""
    name = path.relative_to(ROOT / "sage_core").as_posix()
    if name.startswith(KNOW_THE_BUNDLED_MODEL):
        pytest.skip("not the core")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts = (getattr(node, "module", None) or "").split(".") if isinstance(node, ast.ImportFrom) else []
        names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        assert "demo" not in [*parts, *(part for n in names for part in n.split("."))], ast.unparse(node)


def imports_of(path: Path) -> set[str]:
    """Modules of the core that a file imports, lazily and for types included; "lora.file", say."""
    package = path.relative_to(CORE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            module = ".".join(part for part in base if part)
            for alias in node.names:
                inner = f"{module}.{alias.name}".strip(".")
                is_module = (CORE / Path(*inner.split("."))).with_suffix(".py").exists()
                found.add(inner if is_module else module)
    return found


def modules() -> dict[str, Path]:
    """All modules below the rooms, by name; packages' own files and the two entries at the root are left
    out.
    """
    files = [path for path in CORE.rglob("*.py") if path.stem not in ("__init__", "__main__")]
    return {".".join(path.relative_to(CORE).with_suffix("").parts): path for path in files}


def test_every_room_imports_only_rooms_below_it():
    wrong = []
    for name, path in modules().items():
        own = ROOMS.index(name.split(".")[0])
        for other in imports_of(path):
            if other and ROOMS.index(other.split(".")[0]) > own:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: imports_of(path) for name, path in modules().items()}
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name in done or name not in graph:
            return
        for other in graph[name]:
            walk(other, (*above, name))
        done.add(name)

    for name in graph:
        walk(name, ())


def test_the_direction_is_the_one_that_the_documentation_shows():
    """Room by room, from the top to the bottom."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"```text\n(.+?)```", text, re.S)[1]
    names = " ".join(re.split(r" {3,}", line)[0] for line in block.splitlines())
    shown = [word for word in re.findall(r"[a-z_]+", names) if word in ROOMS]
    assert shown == list(reversed(ROOMS))


@pytest.mark.slow
def test_the_type_checker_agrees():
    """mypy, strict on the methods and the cycle (see pyproject.toml)."""
    pytest.importorskip("mypy")
    run = subprocess.run([sys.executable, "-m", "mypy"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


def test_files_stay_short():
    long = {
        str(p.relative_to(ROOT)): n
        for p in (ROOT / "sage_core").rglob("*.py")
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_install_py_checks_and_changes_nothing():
    run = subprocess.run([sys.executable, "install.py"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0 and "everything it needs is here" in run.stdout
    assert "pip" not in (ROOT / "install.py").read_text(encoding="utf-8").replace("-m pip install -r", "")


def test_requirements_are_floors_without_torch():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert all(">=" in line and "==" not in line for line in lines) and not any(
        line.startswith("torch") for line in lines
    )


def test_the_version_that_the_registry_reads_is_in_the_changelog():
    path = re.search(
        r'\[tool\.comfy\.version\]\npath = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )[1]
    version = re.search(
        r'^__version__ = "(\d+\.\d+\.\d+)"$', (ROOT / path).read_text(encoding="utf-8"), re.M
    )[1]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
