"""What the nodes do without ComfyUI: reading what a user typed, and finding or naming files.

The rest is tested in a real server (comfy/).
"""

import ast
import importlib
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOUCHES_COMFY = {
    "beside.py",
    "bridge.py",
    "demo_checkpoint.py",
    "demo_flow.py",
    "gradients.py",
    "graph_weights.py",
    "guarded.py",
    "guarded_pictures.py",
    "hosted.py",
}


@pytest.fixture(scope="module")
def request_module():
    """`nodes.request` inside a stand-in for the pack's package, since the real one's entry needs ComfyUI."""
    for name, folder in (("sage_pack", ROOT), ("sage_pack.nodes", ROOT / "nodes")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    yield importlib.import_module("sage_pack.nodes.request")
    for name in [n for n in sys.modules if n.split(".")[0] == "sage_pack"]:
        del sys.modules[name]


@pytest.fixture
def error(request_module):
    return request_module.SageError


def test_concepts_are_lines_with_synonyms_behind_a_bar(request_module):
    assert request_module.parse_concepts("dog | puppy,  hound \n\n in the style of  X\n") == [
        ("dog", ("puppy", "hound")),
        ("in the style of X", ()),
    ]


@pytest.mark.parametrize("text", ["", "\n \n", "dog\ndog", "\n".join(str(i) for i in range(30)), "x" * 2000])
def test_bad_lists_are_refused(request_module, error, text):
    with pytest.raises(error):
        request_module.specs(text, "sage", "standard", 0)


def test_effort_scales_the_method_s_steps_and_zero_means_the_default(request_module):
    quick, thorough = (request_module.specs("dog", "sage", e, 3)[0] for e in ("quick", "thorough"))
    assert thorough.steps == 4 * quick.steps and quick.seed == 3
    own = request_module.specs("dog", "sage", "quick", 0, "wolf, fox\nwolf", "both", 4, 7, 0.5, 128)[0]
    assert (own.steps, own.rank, own.eta, own.surface, own.resolution, own.retain) == (
        7,
        4,
        0.5,
        "both",
        128,
        ("wolf", "fox"),
    )


def test_a_kind_is_guessed_later_or_given(request_module, error):
    """The model may decide it, so a spec without one keeps no kind until the model is loaded."""
    assert request_module.specs("dog\nby Hokusai", "sage", "standard", 0)[0].kind is None
    persons = request_module.specs("Hokusai\nRembrandt", "sage", "quick", 0, kind="person")
    assert [s.kind for s in persons] == ["person", "person"]
    with pytest.raises(error, match="no kind"):
        request_module.specs("dog", "sage", "standard", 0, kind="animal")


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "C:\\x", "nul", "a\0b", "..", "x" * 5000, "con.txt", "a/ /b"]
)
def test_names_that_leave_the_folder_are_refused(request_module, error, tmp_path, name):
    with pytest.raises(error):
        request_module.lora_path(tmp_path, request_module.lora_stem(name, "dog", False))


@pytest.mark.parametrize("concept", ["dog", "in the style of Van Gogh", "été / 夏", "CON", 'a "b" <c>', "🐶"])
def test_every_concept_gives_a_usable_name(request_module, tmp_path, concept):
    path = request_module.lora_path(tmp_path, request_module.lora_stem("erased-%concept%", concept, False))
    assert path.parent == tmp_path / "sage" and path.suffix == ".safetensors"


def test_several_concepts_never_share_a_name(request_module):
    assert request_module.lora_stem("mine", "dog", True) != request_module.lora_stem("mine", "cat", True)


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").glob("*.py")), ids=lambda p: p.name)
def test_only_the_bridge_touches_comfy_and_nothing_imports_the_module_nodes(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {
        n.module.split(".")[0]
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and n.module and not n.level
    }
    assert not imported & {"nodes", "utils", "pickle"}
    if path.name not in TOUCHES_COMFY:
        assert not imported & {"comfy", "folder_paths", "server"}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_help_pages_and_locales_exist_for_every_node():
    ids = {
        n.value.value
        for p in (ROOT / "nodes").glob("*.py")
        for n in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
        if isinstance(n, ast.keyword) and n.arg == "node_id" and isinstance(n.value, ast.Constant)
    }
    assert len(ids) == 7 and all(i.startswith("SAGE_") for i in ids)
    assert {p.stem for p in (ROOT / "web" / "docs").glob("*.md")} == ids
    assert [p.name for p in (ROOT / "web").rglob("*.js")] == ["sage.js"]


def test_the_node_checks_every_package_that_the_pack_requires(request_module):
    errors = importlib.import_module("sage_pack.nodes.errors")
    required = {
        line.split(">=")[0] for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    }
    assert set(errors.NEEDED) == required - {"tqdm"}, "only the command line draws a bar"
    errors.require_packages()


@pytest.mark.parametrize("package, module", [("filelock", "filelock"), ("pillow", "PIL")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    request_module, error, monkeypatch, package, module
):
    errors = importlib.import_module("sage_pack.nodes.errors")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(error, match=f"{package} is not installed; .*pip install .* {package}$"):
        errors.require_packages()
