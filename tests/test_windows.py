"""The product on Windows, as far as another system can tell: `windows_rules` takes away what is not there."""

import ast
import ctypes
import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace

import pytest
import windows_rules
from test_nodes import request_module  # noqa: F401 (a fixture)

from sage_core import SageError, files
from sage_core.cli import main as cli
from sage_core.progress import Event, Progress

ROOT = Path(__file__).parent.parent
PRODUCT = sorted(
    p for p in [*(ROOT / "sage_core").rglob("*.py"), *(ROOT / "nodes").glob("*.py"), *ROOT.glob("*.py")]
)
LINUX = pytest.mark.skipif(
    sys.platform != "linux",
    reason="which files are mapped is read from Linux' /proc; on Windows it is no simulation",
)
BEGIN = """
import sys
from pathlib import Path
import windows_rules
windows_rules.install(Path({root!r}), Path.cwd())
"""


def on_windows(folder: Path, code: str) -> subprocess.CompletedProcess:
    """Run the code in `folder`, in a process of its own under Windows' rules."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        "PYTHONIOENCODING": "cp1252",
    }
    command = [sys.executable, "-c", BEGIN.format(root=str(ROOT)) + code]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="cp1252", timeout=600
    )


def test_the_rules_take_effect_in_the_product_and_nowhere_else(tmp_path):
    (tmp_path / "sage_core").mkdir()
    probe = (
        "try:\n import fcntl\n has = True\nexcept ImportError:\n has = False\nimport os, signal, sys\n"
        "seen = [has, hasattr(os, 'fork'), hasattr(signal, 'SIGKILL'), os.name, sys.platform]\n"
    )
    for path in ("sage_core/inside.py", "outside.py"):
        (tmp_path / path).write_text(probe, encoding="utf-8")
    code = (
        f"windows_rules.install(Path({str(tmp_path)!r})); sys.path[:0] = ['.', 'sage_core']\n"
        "import inside, outside; print(inside.seen, outside.seen[0])"
    )
    run = on_windows(tmp_path, code)
    assert run.stdout.strip() == f"[False, False, False, 'nt', 'win32'] {sys.platform != 'win32'}", run.stderr


def test_every_module_is_imported_without_unix_only_modules(tmp_path):
    code = """
import importlib, types
root = Path({root!r})
for name, folder in (("pack", root), ("pack.nodes", root / "nodes")):  # the entry needs ComfyUI
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(folder)]
def needs_host(path):
    text = path.read_text(encoding="utf-8")
    return "comfy" in text or "bridge" in text
core = [p for p in (root / "sage_core").rglob("*.py") if p.stem not in ("__init__", "__main__")]
names = [".".join(p.relative_to(root).with_suffix("").parts) for p in core]
names += [f"pack.nodes.{{p.stem}}" for p in (root / "nodes").glob("*.py") if not needs_host(p)]
bad = {{}}
for name in [*sorted(names), "tools.make_demo.__main__"]:
    try:
        importlib.import_module(name)
    except Exception as error:
        bad[name] = repr(error)
print(len(names), bad)
sys.exit(bool(bad) or len(names) < 60)
"""
    run = on_windows(tmp_path, code.format(root=str(ROOT)))
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_a_concept_is_erased_from_the_command_line_and_measured(tmp_path):
    """With the preview, which rewrites the finished LoRA's metadata."""
    arguments = [
        "erase",
        "demo",
        "--concept",
        "dog",
        "--steps",
        "3",
        "--rank",
        "2",
        "--device",
        "cpu",
        "--save-every",
        "0",
        "--preview",
        "--json",
        "made.json",
    ]
    run = on_windows(tmp_path, f"from sage_core.cli.main import main; sys.exit(main({arguments!r}))")
    assert run.returncode == 0, run.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "erased-dog.png",
        "erased-dog.safetensors",
        "made.json",
    ]
    assert json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))["cost"]["unet_forwards"] > 0


@LINUX
@pytest.mark.slow
def test_a_run_that_resumes_can_replace_and_delete_the_state_that_it_read(tmp_path):
    code = """
from sage_core import ErasureSpec, erase, load_model
model, spec, state = load_model("demo"), ErasureSpec("dog", steps=4, rank=2, search=False), Path("dog.resume")
def stop(event):
    if event.phase == "erase" and event.step == 2:
        raise KeyboardInterrupt
try:
    erase(model, spec, stop, state, save_every=0)
except KeyboardInterrupt:
    assert state.exists()
erase(model, spec, state=state, resume=True, save_every=0).save(Path("dog.safetensors"), model)
"""
    run = on_windows(tmp_path, code)
    assert run.returncode == 0, run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["dog.safetensors"]


@LINUX
def test_files_are_joined_into_the_name_of_one_of_them(tmp_path):
    code = """
import json, torch
from safetensors.torch import save_file
from sage_core.lora.merge import merge_loras
from sage_core.spec import ErasureSpec
for name in ("dog", "cat"):
    spec = ErasureSpec(name).recipe().to_json()
    about = {"sage.spec": json.dumps(spec), "ss_base_model_version": "sd_v1"}
    tensors = {"lora_te_a.lora_down.weight": torch.ones(2, 4), "lora_te_a.lora_up.weight": torch.ones(4, 2)}
    save_file(tensors, f"{name}.safetensors", about)
merge_loras([Path("dog.safetensors"), Path("cat.safetensors")], Path("dog.safetensors"))
"""
    run = on_windows(tmp_path, code)
    assert run.returncode == 0, run.stderr


def comfy_server():
    """The modules of tests/comfy, which is no package."""
    modules = []
    for name in ("server", "graphs"):
        spec = importlib.util.spec_from_file_location(
            f"windows_{name}", ROOT / "tests" / "comfy" / f"{name}.py"
        )
        modules.append(importlib.util.module_from_spec(spec))
        sys.modules[spec.name] = modules[-1]
        spec.loader.exec_module(modules[-1])
    return modules


SERVER, GRAPHS = comfy_server()


@pytest.mark.slow
@pytest.mark.parametrize("comfy", SERVER.find_comfies() or [None], ids=str)
def test_a_concept_is_erased_in_comfyui(comfy, tmp_path, monkeypatch):
    server, graphs = SERVER, GRAPHS
    if comfy is None:
        pytest.skip("NO COMFYUI FOUND: erasing there under Windows' rules WAS NOT TESTED. Set COMFYUI_PATH.")
    hook, base = tmp_path / "hook", tmp_path / "base"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import importlib.util, sys\nfrom pathlib import Path\n"
        f"file = {str(ROOT / 'tests' / 'windows_rules.py')!r}\n"
        "spec = importlib.util.spec_from_file_location('windows_rules', file)\n"
        "rules = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(rules)\n"
        f"rules.install(Path({str(ROOT)!r}), Path({str(base)!r}))\n"
        "print('under the rules of Windows', file=sys.stderr, flush=True)\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(hook))
    with server.Server(comfy, base) as running:
        assert "under the rules of Windows" in running.text()
        graph = graphs.erase("dog", steps=3, name="win")
        apply = {
            "class_type": "SAGE_ApplyErasures",
            "inputs": {
                "model": ["1", 0],
                "clip": ["1", 1],
                "lora_1": "sage\\win.safetensors",
                "strength_1": 1.0,
            },
        }
        outcome = running.run(graph, 400)
        assert outcome.status == "success", outcome.error
        saved = base / "models" / "loras" / "sage" / "win.safetensors"
        assert saved.exists() and saved.with_suffix(".png").exists()
        assert not list((base / "user" / "sage_concept_eraser").glob("*.resume")), (
            "the state of the finished run is gone"
        )
        outcome = running.run(
            graphs.draw({"1": graph["1"], "2": apply}, 10, ["2", 0], ["2", 1], "a dog", 1, steps=1), 200
        )
        assert outcome.status == "success", outcome.error
        if sys.platform == "linux":
            assert windows_rules.mapped_or_open(str(saved), str(running.process.pid)) is None, (
                "the user could not delete it"
            )


def unix_imports(tree: ast.Module) -> set[str]:
    """Unix-only modules that a file imports when it is imported: outside of functions."""
    found, rest = set(), list(tree.body)
    while rest:
        node = rest.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[0] for a in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        rest += ast.iter_child_nodes(node)
    return found & windows_rules.UNIX_ONLY


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_unix_only_module_is_imported_with_the_file_and_text_files_name_their_encoding(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not unix_imports(tree)
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        binary = any(
            isinstance(a, ast.Constant) and isinstance(a.value, str) and "b" in a.value
            for a in call.args[1:2]
        )
        if (
            name in ("read_text", "write_text")
            and getattr(call.func, "value", None) is not None
            or name == "open"
            and isinstance(call.func, ast.Name)
        ):
            assert (
                binary
                or "encoding" in {k.arg for k in call.keywords}
                or ast.unparse(call) == "open(os.devnull, 'w')"
            ), ast.unparse(call)


def test_a_file_that_another_program_holds_for_a_moment_is_replaced_after_it(tmp_path, monkeypatch):
    path, real, refusals = tmp_path / "x.txt", os.replace, [1, 1]

    def replace(source, target):
        if refusals:
            refusals.pop()
            raise PermissionError(13, "Access is denied")
        real(source, target)

    monkeypatch.setattr(files, "ATTEMPTS", 3)
    monkeypatch.setattr(files, "PAUSE", 0)
    monkeypatch.setattr(os, "replace", replace)
    files.write_text(path, "a\nb")
    assert path.read_bytes() == b"a\nb"
    refusals += [1, 1, 1]
    with pytest.raises(SageError, match="Access is denied"):
        files.write_text(path, "new")
    assert path.read_bytes() == b"a\nb" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_deleted_does_not_stop_a_run_that_is_done(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.touch()
    assert files.remove(tmp_path / "none")

    def refuse(self, missing_ok=False):
        raise PermissionError(13, "Access is denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert not files.remove(path)
    assert files.remove(path) and not path.exists()


def test_a_folder_without_rights_is_refused_before_the_run_though_os_access_allows_it(tmp_path, monkeypatch):
    """Windows' os.access looks at the read-only mark alone."""

    def mkdir(self, *args, **options):
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert os.access(tmp_path, os.W_OK)
    with pytest.raises(SageError, match="Access is denied"):
        files.check_room(tmp_path / "x.safetensors")


def test_a_name_in_capitals_is_the_same_claim_where_the_system_says_so(tmp_path, monkeypatch):
    import ntpath

    with files.claimed(tmp_path / "dog"), files.claimed(tmp_path / "Dog"):
        pass
    monkeypatch.setattr(os.path, "normcase", ntpath.normcase)
    with (
        pytest.raises(SageError, match="Another run"),
        files.claimed(tmp_path / "dog"),
        files.claimed(tmp_path / "Dog"),
    ):
        pass


@pytest.mark.parametrize(
    "name", ["com1", "COM\u00b9", "lpt\u00b2.x", "conin$", "nul .txt", "aux.tar.gz", "a\tb"]
)
def test_names_of_windows_devices_are_refused(tmp_path, name):
    with pytest.raises(SageError, match="not usable"):
        files.output_path(tmp_path, name)


def test_a_lora_is_named_as_each_system_lists_it(request_module):  # noqa: F811
    listed = request_module.listed_name
    assert (
        listed(PureWindowsPath("C:/models/loras/sage/x.safetensors"), PureWindowsPath("c:\\models\\loras"))
        == "sage\\x.safetensors"
    )
    assert (
        listed(PurePosixPath("/models/loras/sage/x.safetensors"), PurePosixPath("/models/loras"))
        == "sage/x.safetensors"
    )


def test_json_on_a_console_of_few_letters_is_still_json(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252", write_through=True))
    cli.escape_unprintable()
    cli._print_result(SimpleNamespace(json=True), {"concept": "犬 🐶 é"})
    assert json.loads(raw.getvalue().decode("utf-8")) == {"concept": "犬 🐶 é"}


class Terminal(io.StringIO):
    def __init__(self, encoding: str = "utf-8"):
        super().__init__()
        self.letters = encoding

    @property
    def encoding(self):
        return self.letters

    def isatty(self):
        return True


def test_a_shorter_line_covers_a_longer_one_without_terminal_codes(monkeypatch):
    """Not every Windows console knows the escape that erases the rest of a line."""
    monkeypatch.setenv("COLUMNS", "120")
    progress = Progress(Terminal("cp1252"))
    progress(Event("erase", 1, 9, {"a long name of a loss": 1.0}, eta=30.0))
    time.sleep(0.11)  # a bar is drawn ten times a second at most
    progress(Event("erase", 2, 9))
    progress(Event("erase", 9, 9))
    text = progress.stream.getvalue()
    lines = text.rstrip("\n").split("\r")[1:]
    longest = max(len(line.rstrip()) for line in lines)
    long_at = next(i for i, line in enumerate(lines) if "a long name of a loss 1.0000, at most 30 s" in line)
    after = next(line for line in lines[long_at:] if "a long name" not in line)
    assert "\x1b" not in text and len(after) >= longest > len(after.rstrip())
    assert text.isascii(), "the console's few letters are enough"
    assert text.count("\n") == 1 and "9/9" in lines[-1]


def test_a_sentence_has_a_line_of_its_own_on_a_terminal():
    progress = Progress(Terminal())
    progress(Event("erase", 1, 9))
    progress("less memory is taken")
    progress(Event("erase", 2, 9))
    progress(Event("done", 2, 2))
    first, sentence, second, rest = progress.stream.getvalue().split("\n")
    assert "1/9" in first and sentence == "less memory is taken" and "2/9" in second and rest == ""


def test_a_log_has_a_line_every_few_seconds_and_the_last():
    progress = Progress(io.StringIO())
    for step in range(1, 10):
        progress(Event("erase", step, 9, {"erase": 0.5}, eta=3.0, left=0.25))
    assert progress.stream.getvalue().splitlines() == [
        "self-check and erasing 1/9  erase 0.5000  25% of the concept left  at most 3 s",
        "self-check and erasing 9/9  erase 0.5000  25% of the concept left",
    ]


def test_the_peak_of_memory_comes_from_windows_own_counters(monkeypatch):
    from sage_core.evaluate import peak

    def fill(process, counters, size):
        assert size == ctypes.sizeof(peak._Counters) == (72 if ctypes.sizeof(ctypes.c_void_p) == 8 else 40)
        ctypes.cast(counters, ctypes.POINTER(peak._Counters)).contents.peak_working_set = 300 * 2**20
        return 1

    class Function:
        def __init__(self, call):
            self.call = call

        def __call__(self, *args):
            return self.call(*args)

    kernel = SimpleNamespace(
        GetCurrentProcess=Function(lambda: 2**64 - 1), K32GetProcessMemoryInfo=Function(fill)
    )
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: kernel, raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert peak.peak_memory_mb() == 300


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has its own counters")
def test_a_peak_that_no_system_tells_is_left_out_of_the_report(monkeypatch):
    from sage_core.evaluate import peak
    from sage_core.evaluate.cells import CELLS
    from sage_core.evaluate.report import table

    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert peak.peak_memory_mb() is None
    cells = dict.fromkeys((*CELLS, "attacked"))
    cost = {"unet_forwards": 1, "unet_backwards": 1, "seconds": 2.0, "peak_memory_mb": None}
    assert table({"before": cells, "after": cells, "drift": {}, "cost": cost}).endswith("backwards), 2 s")
