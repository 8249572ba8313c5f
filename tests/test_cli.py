"""The command line: results where promised, one sentence and the right exit status where not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from sage_core.cli import main as cli
from sage_core.cli.common import output_folder
from sage_core.demo import DEMO
from sage_core.lora.file import read_lora

QUICK = ["--concept", "dog", "--no-search", "--steps", "2", "--rank", "2", "--device", "cpu"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_erase_saves_a_lora_that_describes_itself_and_can_be_repeated(here, capsys):
    assert cli.main(["erase", "demo", *QUICK, "--out", "dog.safetensors"]) == 0
    assert sorted(p.name for p in here.iterdir()) == ["dog.png", "dog.safetensors"]
    file = read_lora(here / "dog.safetensors")
    assert file.spec()["concept"] == "dog" and set(file.result()) == {"before", "after", "drift"}
    assert (
        cli.main(["erase", "demo", "--from", "dog.safetensors", "--out", "again.safetensors", "--no-preview"])
        == 0
    )
    assert not (here / "again.png").exists()
    a, b = read_lora(here / "dog.safetensors").layers, read_lora(here / "again.safetensors").layers
    assert all(torch.equal(a[k][i], b[k][i]) for k in a for i in (0, 1))
    capsys.readouterr()
    assert cli.main(["inspect", "dog.safetensors", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["spec"]["concept"] == "dog" and shown["rank"] == 2 and shown["surfaces"] == ["te", "unet"]
    assert cli.main(["inspect", "dog.safetensors"]) == 0
    assert "concept: dog" in capsys.readouterr().out


def test_the_kind_is_guessed_and_reported_or_given_and_the_file_says_it(here, capsys):
    uce = ["erase", "demo", "--method", "uce", "--no-preview"]
    assert cli.main([*uce, "--concept", "ink", "--out", "guessed.safetensors"]) == 0
    assert "'ink': taken as a style; set kind to change it" in capsys.readouterr().err
    assert cli.main([*uce, "--concept", "ink", "--kind", "thing", "--out", "given.safetensors"]) == 0
    assert "taken as" not in capsys.readouterr().err
    guessed, given = (read_lora(here / f"{name}.safetensors") for name in ("guessed", "given"))
    assert (guessed.spec()["kind"], given.spec()["kind"]) == ("style", "thing")
    downs = [(guessed.layers[k][0], given.layers[k][0]) for k in given.layers]
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in downs)


def test_merged_erasures_are_one_file_that_says_what_it_erases(here, capsys):
    for concept in ("dog", "castle"):
        assert (
            cli.main(
                [
                    "erase",
                    "demo",
                    *QUICK,
                    "--concept",
                    concept,
                    "--no-preview",
                    "--out",
                    f"{concept}.safetensors",
                ]
            )
            == 0
        )
    assert cli.main(["merge", "dog.safetensors", "castle.safetensors", "--out", "both.safetensors"]) == 0
    assert "erases dog, castle" in capsys.readouterr().out
    assert cli.main(["inspect", "both.safetensors"]) == 0
    shown = capsys.readouterr().out
    assert "concept: dog" in shown and "concept: castle" in shown and "rank 4" in shown
    assert cli.main(["erase", "demo", "--from", "both.safetensors", "--out", "again.safetensors"]) == 1
    assert (
        "2 erasures joined (dog, castle)" in capsys.readouterr().err
        and not (here / "again.safetensors").exists()
    )


def test_generate_draws_a_picture_and_a_lora_changes_it(here):
    from PIL import Image

    assert (
        cli.main(
            ["generate", "demo", "--prompt", "a cartoon drawing of a dog", "--steps", "4", "--out", "a.png"]
        )
        == 0
    )
    assert Image.open(here / "a.png").size == (64, 64)
    assert cli.main(["erase", "demo", *QUICK, "--no-preview", "--out", "dog.safetensors"]) == 0
    draw = [
        "generate",
        "demo",
        "--prompt",
        "a cartoon drawing of a dog",
        "--steps",
        "4",
        "--lora",
        "dog.safetensors",
    ]
    assert (
        cli.main([*draw, "--out", "b.png"]) == 0
        and cli.main([*draw, "--strength", "0", "--out", "c.png"]) == 0
    )
    a, b, c = (Image.open(here / f"{n}.png").tobytes() for n in "abc")
    assert a != b and a == c


def test_what_a_host_would_read_in_a_prompt_is_reported(here, capsys):
    assert (
        cli.main(
            [
                "generate",
                "demo",
                "--prompt",
                "a (dog:1.2) " + "and a cat " * 40,
                "--steps",
                "1",
                "--out",
                "a.png",
            ]
        )
        == 0
    )
    err = capsys.readouterr().err
    assert "'(dog:1.2)' is read as plain text" in err and "those after the first 75 are left out" in err


def test_methods_names_sage_and_its_source(capsys):
    assert cli.main(["methods", "--json"]) == 0
    assert "2506.09363" in json.loads(capsys.readouterr().out)["sage"]["citation"]


def broken(path, kind):
    """Input files that are wrong in one way each."""
    target = path / f"{kind}.safetensors"
    if kind == "pickle":
        target = path / "model.ckpt"
        torch.save({"a": torch.zeros(1)}, target)
    elif kind == "pickle-renamed":
        torch.save({"a": torch.zeros(1)}, target)
    elif kind == "truncated":
        whole = (DEMO / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
        target.write_bytes(whole[: len(whole) // 2])
    elif kind == "lying":
        header = json.dumps(
            {"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}
        ).encode()
        target.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)
    elif kind == "huge-header":
        target.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    elif kind == "empty":
        target.write_bytes(b"")
    elif kind == "other":
        save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(2, 2)}, target)
    elif kind == "nan":
        target = path / "nan"
        shutil.copytree(DEMO, target)
        from safetensors.torch import load_file

        file = target / "unet" / "diffusion_pytorch_model.safetensors"
        sd = {
            k: v.clone() for k, v in load_file(file).items()
        }  # not mapped from the file, which is written below
        sd["conv_out.bias"][0] = float("nan")
        save_file(sd, file)
    elif kind == "bare-folder":
        target = path / "bare"
        target.mkdir()
    return target


@pytest.mark.parametrize(
    "kind, words",
    [
        ("missing", "no file or folder"),
        ("pickle", "pickled"),
        ("pickle-renamed", "cannot be read as safetensors"),
        ("truncated", "cannot be read as safetensors"),
        ("lying", "cannot be read as safetensors"),
        ("huge-header", "cannot be read as safetensors"),
        ("empty", "cannot be read as safetensors"),
        ("other", "Flux"),
        ("nan", "NaN"),
        ("bare-folder", "model_index.json is missing"),
    ],
)
def test_a_wrong_model_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys, kind, words):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert cli.main(["erase", str(broken(tmp_path, kind)), *QUICK]) == 1
    refused(capsys, work, words)


def refused(capsys, folder, words):
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("sage-erase: ")]
    assert len(lines) == 1 and words in lines[0] and "Traceback" not in err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["erase", "demo", "--concept", ""], "empty"),
        (["erase", "demo", "--concept", "x" * 10_000], "long"),
        (["erase", "demo", "--concept", "xylophone"], "cannot draw"),
        (["erase", "demo"], "--concept"),
        (["erase", "demo", "--concept", "a (dog:1.2)"], "plain words"),
        (["erase", "demo", "--concept", "dog", "--synonym", "embedding:puppy"], "plain words"),
        (["batch", "demo", "nothing.txt"], "cannot be read"),
        (["erase", "demo", "--concept", "dog", "--steps", "0"], "steps"),
        (["erase", "demo", "--concept", "dog", "--alpha", "nan"], "alpha"),
        (["erase", "demo", "--concept", "dog", "--method", "magic"], "no method"),
        (["erase", "demo", "--concept", "dog", "--out", "../dog.safetensors"], "not usable"),
        (["erase", "demo", "--concept", "dog", "--out", "nul"], "not usable"),
        (["erase", "demo", "--concept", "dog", "--device", "warp"], "device"),
        (["erase", "demo", "--from", "nothing.safetensors"], "no LoRA file"),
        (["evaluate", "demo", "--lora", "nothing.safetensors"], "no LoRA file"),
        (["evaluate", "demo", "--lora", "nothing.pt"], "only that format"),
        (["generate", "demo", "--prompt", "dog", "--out", "../x.png"], "not usable"),
        (["generate", "demo", "--prompt", "dog", "--steps", "0"], "--steps"),
        (["inspect", "nothing.safetensors"], "no LoRA file"),
        (["merge", "nothing.safetensors"], "at least two"),
        (["merge", "nothing.safetensors", "nothing.safetensors"], "no LoRA file"),
        (["demo", "--concept", "xylophone"], "cannot draw"),
        (["demo", "--out", "../up"], "not usable"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(here, capsys, arguments, words):
    assert cli.main(arguments) == 1
    refused(capsys, here, words)


def test_the_model_itself_is_not_overwritten(here, capsys):
    (here / "model.safetensors").write_bytes(b"gigabytes")
    assert (
        cli.main(["erase", "model.safetensors", "--concept", "dog", "--out", str(here / "model.safetensors")])
        == 1
    )
    assert (
        "is the model itself" in capsys.readouterr().err
        and (here / "model.safetensors").read_bytes() == b"gigabytes"
    )


def test_a_folder_may_end_with_the_separator_that_shells_complete(here):
    assert output_folder("out/") == output_folder("out") == here / "out"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["erase"], ["erase", "demo", "--steps", "many"]])
def test_wrong_usage_is_status_2(arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
