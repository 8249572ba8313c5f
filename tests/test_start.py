"""start.py: one command that sets everything up, on every system. Nothing is installed here."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SLOW_TO_END = """
import time
try:
    print(1, flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.6)
    print(2)
    raise SystemExit(130)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start.py with a root of its own, whose path has a space. `ran` lists the commands that it would run."""
    spec = importlib.util.spec_from_file_location("sage_start", ROOT / "start.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path / "a folder"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "VENV", root / ".venv")
    monkeypatch.setattr(module, "own_torch", lambda: None)
    module.ran, module.fails = [], lambda command: False

    def run(command, folder=None, quiet=False):
        command = [str(part) for part in command]
        module.ran.append(command)
        if command[1:3] == ["-m", "venv"]:
            python = module.python_of(module.VENV)
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()
        if "find_spec('torch')" in command[-1]:
            return 1
        return int(module.fails(command))

    module.really_run, module.run = module.run, run
    return module


def words(commands) -> list[str]:
    return [" ".join(str(part) for part in command) for command in commands]


@pytest.mark.parametrize(
    "system, expected",
    [("linux", ".venv/bin/python"), ("darwin", ".venv/bin/python"), ("win32", ".venv/Scripts/python.exe")],
)
def test_the_environment_s_python_is_where_each_system_has_it(start, system, expected):
    assert start.python_of(Path(".venv"), system).as_posix() == expected


@pytest.mark.parametrize("system, ways", [("linux", 3), ("win32", 3), ("darwin", 2)])
def test_torch_comes_from_this_machine_first_then_for_its_gpu_then_as_pip_chooses(start, system, ways):
    plans = [words(commands) for _, commands in start.torch_ways(Path("py"), system)]
    assert len(plans) == ways
    assert "--no-index" in plans[0][0] and "--no-deps" in plans[0][0], "nothing is downloaded"
    assert plans[-1] == ["py -m pip install torch>=2.3"]
    if ways == 3:
        assert plans[1] == [
            "py -m pip install --quiet uv",
            "py -m uv pip install --python py --torch-backend=auto torch>=2.3",
        ]


def test_the_commands_pass_their_arguments_on(start):
    assert words(start.run_commands("demo", Path("py"), ["--concept", "owl"])) == [
        "py -m sage_core demo --concept owl"
    ]
    panel = words(start.run_commands("panel", Path("py"), ["--port", "0"]))
    assert panel == ["py -m sage_core panel --port 0"]
    assert words(start.run_commands("test", Path("py"), ["-k", "files"])) == [
        "py -m ruff check .",
        "py -m pytest -n 2 -k files",
    ]


def test_the_first_start_installs_and_the_second_only_runs(start):
    assert start.main(["demo"]) == 0
    kinds = [c[2] if c[1] == "-m" else "look" for c in start.ran]
    assert kinds == ["venv", "look", "pip", "pip", "sage_core"] and start.ran[3][-2:] == ["-e", "."]
    start.ran.clear()
    assert start.main(["demo", "--concept", "owl"]) == 0
    assert [c[2:] for c in start.ran] == [["sage_core", "demo", "--concept", "owl"]]


def test_what_tests_need_is_installed_once_and_holds_what_the_demo_needs(start):
    assert start.main(["test"]) == 0 and ".[test]" in start.ran[-3]
    start.ran.clear()
    assert start.main(["demo"]) == 0 and len(start.ran) == 1
    (start.ROOT / "pyproject.toml").write_text("[project]\ndependencies = ['other']\n", encoding="utf-8")
    start.ran.clear()
    assert start.main(["demo"]) == 0 and [c[2] for c in start.ran if c[1] == "-m"] == [
        "pip",
        "pip",
        "sage_core",
    ]


def test_another_python_gets_a_new_environment(start, monkeypatch):
    assert start.main(["demo"]) == 0
    start.ran.clear()
    monkeypatch.setattr(start, "python_version", lambda: "3.99")
    (start.VENV / "of the old one").touch()
    assert start.main(["demo"]) == 0
    assert start.ran[0][2] == "venv" and not (start.VENV / "of the old one").exists()


def test_an_environment_that_was_half_made_is_made_again(start):
    def interrupt(command):
        if "venv" in command:
            raise KeyboardInterrupt
        return False

    start.fails = interrupt
    assert start.main(["demo"]) == 130
    start.fails = lambda command: False
    assert start.main(["demo"]) == 0 and sum("venv" in command for command in start.ran) == 2


def test_an_environment_that_was_made_by_hand_is_used_and_never_cleared(start, monkeypatch):
    python = start.python_of(start.VENV)
    python.parent.mkdir(parents=True)
    python.touch()
    assert start.main(["demo"]) == 0
    monkeypatch.setattr(start, "python_version", lambda: "3.99")
    assert start.main(["demo"]) == 0
    assert not [c for c in start.ran if "venv" in c]


def test_an_environment_without_a_python_is_a_sentence_and_stays(start, capsys):
    (start.VENV / "mine").mkdir(parents=True)
    assert start.main(["demo"]) == 1
    assert "holds no Python that runs" in capsys.readouterr().err and (start.VENV / "mine").exists()


def test_a_failed_install_is_a_sentence_and_is_tried_again(start, capsys):
    start.fails = lambda command: "-e" in command
    assert start.main(["demo"]) == 1
    assert (
        capsys.readouterr().err
        == "start.py: pip could not install the project (see above); check the network and start again.\n"
    )
    start.fails = lambda command: False
    assert start.main(["demo"]) == 0


def test_every_way_to_torch_is_tried_before_it_is_given_up(start, capsys):
    start.fails = lambda command: command[-1] == start.TORCH
    assert start.main(["demo"]) == 1 and "torch could not be installed" in capsys.readouterr().err
    assert sum(c[-1] == start.TORCH for c in start.ran) == len(start.torch_ways(Path("py")))


def test_the_torch_of_the_python_that_starts_it_is_used(start, tmp_path):
    """In a real environment, from a folder with a space and letters that are not ASCII."""
    packages = tmp_path / "Pakete für ü"
    (packages / "torch").mkdir(parents=True)
    (packages / "torch" / "__init__.py").write_text("here = True\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", start.VENV], check=True)
    python = start.python_of(start.VENV)
    start.share(python, packages)
    assert subprocess.run([python, "-c", "import torch; assert torch.here"]).returncode == 0


def test_exit_status_is_passed_on(start):
    assert start.really_run([sys.executable, "-c", "import sys; sys.exit(5)"]) == 5
    with pytest.raises(start.Failed, match="could not be started"):
        start.really_run([start.ROOT / "none"])
    start.fails = lambda command: "ruff" in command
    assert start.main(["test"]) == 1
    assert start.ran[-1][2] == "ruff", "nothing is run after what failed"


def test_wrong_usage_is_status_2_and_help_is_not(start, capsys):
    assert start.main([]) == start.main(["fly"]) == 2
    assert "start.py demo" in capsys.readouterr().err
    assert start.main(["--help"]) == 0 and not start.ran


def test_an_old_python_is_told_so(start, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert start.main(["demo"]) == 1 and "Python 3.10 or newer is needed" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a console, not to a process")
def test_ctrl_c_waits_for_the_program_that_it_also_reaches(tmp_path):
    code = (
        f"import signal, sys; sys.path.insert(0, {str(ROOT)!r}); import start\n"
        # A shell starts what it runs in the background with Ctrl-C ignored, and the tests with it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "start.set_up = lambda mode: sys.executable\n"
        f"child = {SLOW_TO_END!r}\n"
        "start.run_commands = lambda *args: [[sys.executable, '-c', child]]\n"
        "sys.exit(start.main(['demo']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "1\n"
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "2\n") and "Traceback" not in err and "interrupted" in err


def test_the_readme_s_commands_are_these_and_ci_calls_the_second():
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert blocks == ["python start.py demo\n", "python start.py test\n"]
    assert "python3 start.py test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_it_needs_the_standard_library_alone_and_names_no_host():
    text = (ROOT / "start.py").read_text(encoding="utf-8")
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.M))
    assert imported <= sys.stdlib_module_names
    assert not re.search(r"https?:|\.org/|\.io\b|\bindex-url", text) and text.isascii()


def test_the_stamp_is_read_where_it_is_whole(start):
    start.VENV.mkdir()
    for damaged in ("", "{", "[]", '{"installed": 3}'):
        (start.VENV / start.STAMP).write_text(damaged, encoding="utf-8")
        assert start.read_stamp() == {}
    start.write_stamp({"installed": {}, "python": "3.11"})
    assert json.loads((start.VENV / start.STAMP).read_text(encoding="utf-8")) == start.read_stamp()
