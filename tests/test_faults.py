"""What happens to machines in the middle of a run: it resumes from there, or stops in a sentence, and no file
is ever half.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny
import torch

from sage_core import ErasureSpec, SageError, erase
from sage_core.errors import OutOfMemory, is_out_of_memory
from sage_core.files import check_room, claimed
from sage_core.jobs.make import Maker
from sage_core.lora.file import read_lora
from sage_core.memory.plan import erase_as_planned, make_plan
from sage_core.progress import Progress

LONG = "SAGE_LONG" in os.environ
KILLS, INTERRUPTS = (50, 20) if LONG else (1, 1)
ROOT = Path(__file__).parent.parent
SPEC = ErasureSpec("dog", steps=6, rank=2, search=False)
QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def thin_folder(tmp_path_factory):
    return tiny.folder(tiny.make("sd1"), tmp_path_factory.mktemp("thin") / "m")


def start(
    model: Path, folder: Path, *more: str, concept: str = "dog", **environment: str
) -> subprocess.Popen:
    """A real process that erases into `folder`/dog.safetensors, one state a step."""
    folder.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "sage_core",
        "erase",
        model,
        "--concept",
        concept,
        "--steps",
        "16",
        "--no-search",
        "--rank",
        "2",
        "--device",
        "cpu",
        "--no-preview",
        "--save-every",
        "0",
        "--resume",
        "--out",
        "dog.safetensors",
        *more,
    ]
    heard = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=heard,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def tensors(path: Path) -> dict:
    return {(name, i): layer[i] for name, layer in read_lora(path).layers.items() for i in (0, 1)}


@pytest.fixture(scope="module")
def undisturbed(thin_folder, tmp_path_factory):
    """(its tensors, how many seconds it took)."""
    folder, began = tmp_path_factory.mktemp("whole"), time.monotonic()
    assert start(thin_folder, folder).wait() == 0
    return tensors(folder / "dog.safetensors"), time.monotonic() - began


def test_killed_at_random_moments_it_goes_on_to_the_same_result(thin_folder, undisturbed, tmp_path):
    whole, seconds = undisturbed
    rng, kills, runs = random.Random(time.time()), 0, 0
    while kills < KILLS:
        folder, runs = tmp_path / str(runs), runs + 1
        final = folder / "dog.safetensors"
        while not final.exists():
            process = start(thin_folder, folder)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.3, 1) * seconds if kills < KILLS else None)
            if process.poll() is None:
                process.kill()
                kills += 1
            elif process.returncode:
                raise AssertionError(process.stderr.read())
            process.wait()
        again = tensors(final)
        assert again.keys() == whole.keys() and all(
            torch.allclose(again[k], whole[k], atol=1e-4) for k in whole
        )
        assert [p.name for p in folder.iterdir()] == ["dog.safetensors"], "nothing half-written is left"
    print(f"{kills} kills in {runs} runs")


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a console, not to a process")
def test_ctrl_c_at_random_moments_is_status_130_or_done_and_no_traceback(thin_folder, undisturbed, tmp_path):
    rng = random.Random(time.time())
    for i in range(INTERRUPTS):
        folder = tmp_path / str(i)
        process = start(thin_folder, folder)
        after = rng.uniform(0.1, 1) * undisturbed[1]
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=300)[1]
        assert process.returncode in (0, 130) and "Traceback" not in err, (after, err)
        assert (folder / "dog.safetensors").exists() == (process.returncode == 0)
        assert not [p for p in folder.iterdir() if ".tmp" in p.name]


def test_ctrl_c_while_python_ends_does_not_change_the_status():
    code = (
        "import signal, sys; from sage_core.cli import main as cli; cli.main = lambda: 0; done ="
        " cli.console(); signal.raise_signal(signal.SIGINT); sys.exit(done)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_two_runs_for_one_name_do_not_meet(thin_folder, tmp_path):
    both = [start(thin_folder, tmp_path) for _ in range(2)]
    reported = [p.communicate()[1] for p in both]
    codes = sorted(p.returncode for p in both)
    if codes == [0, 0]:
        pytest.skip("THE MACHINE WAS SO SLOW that the second run began when the first was done")
    assert (
        codes == [0, 1]
        and any("Another run is making" in t for t in reported)
        and not any("Traceback" in t for t in reported)
    )
    assert tensors(tmp_path / "dog.safetensors")


def test_a_claim_is_refused_while_it_is_held_and_ends_with_it(tmp_path):
    path = tmp_path / "x.safetensors"
    with claimed(path):
        with pytest.raises(SageError, match="Another run"), claimed(path):
            pass
        with claimed(tmp_path / "y.safetensors"):
            pass
    with claimed(path):
        pass


@pytest.fixture
def tmpfs(tmp_path):
    """A disk of 4 MB."""
    if sys.platform != "linux":
        pytest.skip("NOT TESTED ON A REAL FULL DISK: only Linux mounts one in memory")
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("NOT TESTED ON A REAL FULL DISK: mounting one takes rights that are not here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_in_the_middle_is_a_sentence_and_the_run_goes_on_when_there_is_room(thin, tmpfs):
    path, filler = tmpfs / "dog.safetensors", tmpfs / "filler"

    def fill(event):
        if event.phase == "erase" and event.step == 3 and not filler.exists():
            with open(filler, "wb", buffering=0) as f, contextlib.suppress(OSError):
                while f.write(b"x" * 4096):
                    pass

    state = path.with_suffix(".resume")
    with pytest.raises(SageError, match="could not be written .*free space"):
        erase(thin, SPEC, fill, state=state, save_every=0)
    assert sorted(p.name for p in tmpfs.iterdir()) == ["dog.resume", "filler"]
    filler.unlink()
    phases = []
    erasure = erase(
        thin, SPEC, lambda e: phases.append((e.phase, e.step)), state=state, resume=True, save_every=0
    )
    erasure.save(path, thin)
    erasure.adapter.remove()
    assert phases[0] == ("erase", 3) and [p.name for p in tmpfs.iterdir()] == ["dog.safetensors"]


def test_too_little_room_is_told_before_anything_is_begun(thin, tmpfs):
    (tmpfs / "filler").write_bytes(bytes(3_900_000))
    with pytest.raises(SageError, match=r"takes \d+ MB and 0 MB are free"):
        Maker(thin, torch.device("cpu"), QUIET).make(
            ErasureSpec("dog", rank=256).recipe(), tmpfs / "dog.safetensors"
        )
    assert [p.name for p in tmpfs.iterdir()] == ["filler"]


def test_a_read_only_disk_is_told_before_anything_is_begun(tmpfs):
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    with pytest.raises(SageError, match="read-only"):
        check_room(tmpfs / "new" / "dog.safetensors")


@pytest.mark.skipif(os.name == "nt", reason="limits of a process are Unix")
def test_a_file_that_may_not_grow_is_a_sentence_and_leaves_nothing(thin_folder, tmp_path):
    """As on a full disk or over a quota, and it takes no rights to try."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); from"
        " sage_core.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "erase",
        thin_folder,
        "--concept",
        "dog",
        "--method",
        "uce",
        "--device",
        "cpu",
        "--no-preview",
    ]
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert run.returncode == 1 and "could not be written" in run.stderr and "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_none_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "x.safetensors", tmp_path / "file" / "deep" / "x.safetensors"):
        with pytest.raises(SageError, match="no folder"):
            check_room(path)
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(SageError, match="is a folder"):
        check_room(tmp_path / "x.safetensors")


def test_a_folder_that_is_removed_in_the_middle_comes_back(thin, tmp_path):
    path = tmp_path / "gone" / "dog.safetensors"

    def remove(event):
        if event.phase == "erase" and event.step == 3:
            shutil.rmtree(path.parent)

    erasure = erase(thin, SPEC, remove, state=path.with_suffix(".resume"), save_every=0)
    erasure.save(path, thin)
    erasure.adapter.remove()
    assert [p.name for p in path.parent.iterdir()] == ["dog.safetensors"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers_stop_the_run(thin, monkeypatch, bad):
    noise = type(thin).noise
    monkeypatch.setattr(type(thin), "noise", lambda self, seeds: noise(self, seeds).fill_(bad))
    with pytest.raises(SageError, match="NaN or infinite noise in float32"):
        erase(thin, SPEC)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_stops_the_run_and_the_state_stays_good(
    thin, monkeypatch, tmp_path, bad
):
    from safetensors.torch import load_file

    from sage_core.cycle import run as cycle

    own, calls, adapters = cycle.descend, [], []
    create = cycle.Adapter.create

    def poisoned(*args):
        out = own(*args)
        calls.append(1)
        if len(calls) == 3:
            next(p for p in adapters[-1].parameters() if p.grad is not None).grad.flatten()[0] = bad
        return out

    monkeypatch.setattr(cycle, "descend", poisoned)
    monkeypatch.setattr(cycle.Adapter, "create", lambda *args: adapters.append(create(*args)) or adapters[-1])
    state = tmp_path / "dog.resume"
    with pytest.raises(SageError, match="At step 3 the gradient was .*: the run diverged"):
        erase(thin, SPEC, state=state, save_every=0)
    assert all(v.isfinite().all() for v in load_file(state).values() if v.is_floating_point())
    monkeypatch.setattr(cycle, "descend", own)
    erase(thin, SPEC, state=state, resume=True).adapter.remove()


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_every_device_s_word_for_too_little_memory_is_understood(thin, error):
    def fail(event):
        raise error

    with pytest.raises(OutOfMemory, match="smaller resolution than 64"):
        erase(thin, SPEC, fail)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_memory_that_runs_out_is_a_smaller_way_and_then_a_sentence(thin, monkeypatch, tmp_path):
    from sage_core.cycle import run as cycle

    error = OUT_OF_MEMORY[0]
    own, steps, said = cycle.descend, [], []

    def short_of(enough):
        def step(model, *args):
            steps.append(model.at_once)
            if len(steps) > 2 and not enough(model):
                raise error
            return own(model, *args)

        return step

    plan = make_plan(thin, SPEC.recipe(), None)
    try:
        monkeypatch.setattr(cycle, "descend", short_of(lambda model: model.at_once == 1))
        erasure = erase_as_planned(
            thin, SPEC, plan, lambda event: None, said.append, tmp_path / "x.resume", save_every=0
        )
        erasure.adapter.remove()
        assert (
            len(erasure.losses) == 6
            and len(said) == 2
            and "one sample" in said[1].replace("1 sample", "one sample")
        )
        assert len(steps) == 6 + 2, "it went on from the last state, twice"
        monkeypatch.setattr(cycle, "descend", short_of(lambda model: False))
        plan.set_up(thin)
        with pytest.raises(OutOfMemory, match="smaller resolution"):
            erase_as_planned(thin, SPEC.recipe(), plan, lambda event: None, said.append)
    finally:
        plan.set_up(thin)
        thin.at_once = None


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "1"},
        {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"},
    ],
)
def test_odd_locales_change_nothing(thin_folder, tmp_path, environment):
    process = start(thin_folder, tmp_path, "--method", "uce", concept="I İ ı Café 🐶", **environment)
    err = process.communicate()[1]
    assert process.returncode == 0 and "Traceback" not in err, err
    assert read_lora(tmp_path / "dog.safetensors").spec()["concept"] == "I İ ı Café 🐶"


@pytest.mark.parametrize("jump", [-10 * 365 * 86_400, 100 * 365 * 86_400])
def test_a_clock_that_jumps_changes_nothing(thin, monkeypatch, tmp_path, jump):
    now = time.time

    def leap(event):
        monkeypatch.setattr(time, "time", lambda: now() + jump)

    path = tmp_path / "dog.safetensors"
    erasure = erase(thin, SPEC, leap, state=path.with_suffix(".resume"), save_every=0)
    erasure.save(path, thin)
    erasure.adapter.remove()
    assert 0 < erasure.seconds < 600 and read_lora(path).metadata["modelspec.date"]


def test_a_run_in_another_thread_is_a_run(thin, tmp_path):
    """Hosts do not train in their main thread, where alone signals are heard."""
    from sage_core.cli import main as cli

    codes = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["methods"])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_state_that_was_altered_is_a_sentence(thin, tmp_path):
    from safetensors.torch import load_file, save_file

    state = tmp_path / "x.resume"

    def stop(event):
        if event.phase == "erase" and event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        erase(thin, SPEC, stop, state=state, save_every=0)
    whole = {
        k: v.clone() for k, v in load_file(state).items()
    }  # not mapped from the file, which is written below
    from safetensors import safe_open

    with safe_open(state, "pt") as f:
        meta = f.metadata()
    for broken, about in (
        (dict(list(whole.items())[3:]), meta),
        ({k: v.flatten()[:1] for k, v in whole.items()}, meta),
        (whole, {"sage.state": "[]"}),
        (whole, {"sage.state": "[" * 100_000}),
        (whole, {}),
    ):
        save_file({k: v.clone() for k, v in broken.items()}, state, metadata=about)
        with pytest.raises(SageError, match="cannot be read"):
            erase(thin, SPEC, state=state, resume=True)
    state.write_bytes(b"half")
    with pytest.raises(SageError, match="cannot be read"):
        erase(thin, SPEC, state=state, resume=True)
    assert not thin.unet.conv_in._forward_hooks
