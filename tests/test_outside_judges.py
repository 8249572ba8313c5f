"""Judges from outside the model: read from folders, asked about pictures, and compared with each other."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    ViTConfig,
    ViTForImageClassification,
)

from sage_core import ErasureSpec, SageError
from sage_core.cli import main as cli
from sage_core.diffusion.cost import Cost
from sage_core.diffusion.knowledge import Prompt
from sage_core.diffusion.load import CLIP_TOKENIZER
from sage_core.evaluate.agreement import kappa, second_opinion
from sage_core.evaluate.judges import nudenet
from sage_core.evaluate.judges.choose import open_judge
from sage_core.evaluate.judges.classifier import Classifier, ClassifierJudge
from sage_core.evaluate.judges.clip import Clip, ClipJudge
from sage_core.evaluate.judges.folder import Preparation
from sage_core.evaluate.measure import evaluate, measure_original
from sage_core.evaluate.report import page, table

SPEC = ErasureSpec("dog", synonyms=("puppy",), retain=("wolf", "cat"))
LABELS = ("Eskimo_dog", "hotdog, hot dog", "tabby, tabby cat", "castle")
TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def prepared(folder, **changes):
    """preprocessor_config.json, as CLIP's."""
    config = {
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.3, 0.2, 0.1],
        "resample": 3,
    }
    folder.mkdir(exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = prepared(tmp_path_factory.mktemp("judges") / "clip")
    text = TOWER | {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}
    vision = TOWER | {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer.from_pretrained(CLIP_TOKENIZER, local_files_only=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = prepared(tmp_path_factory.mktemp("judges") / "classifier")
    names = dict(enumerate(LABELS))
    config = ViTConfig(**TOWER, image_size=32, patch_size=16, id2label=names)
    ViTForImageClassification(config).save_pretrained(folder)
    return folder


def asked(count: int, thing: str = "") -> list[Prompt]:
    return [Prompt("concept", "a picture of a dog", "dog", i, thing) for i in range(count)]


def test_pictures_are_prepared_as_transformers_does_it_with_pil(tmp_path):
    prepare = Preparation.read(prepared(tmp_path))
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    theirs = picture.resize((40, 40), Image.Resampling.BICUBIC).crop((4, 4, 36, 36))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.3, 0.2, 0.1]))
    ours = (prepare(pixels[None].float() / 127.5 - 1)[0] * std + mean) * 255
    expected = torch.from_numpy(np.array(theirs)).permute(2, 0, 1).float()
    assert ours.shape == (3, 32, 32) and torch.allclose(ours, expected, atol=0.01)


def test_clip_s_embeddings_are_its_own(clip_folder):
    clip, images = Clip.load(clip_folder), torch.rand(20, 3, 64, 64) * 2 - 1
    texts = ["a picture of a dog", "a picture", "a castle in the rain"]
    network = CLIPModel.from_pretrained(clip_folder)
    tokens = clip.tokenizer(texts, padding=True, return_tensors="pt")
    out = network(**tokens, pixel_values=clip.prepare(images))
    cpu = torch.device("cpu")
    like = clip.of_images(images, cpu) @ clip.of_texts(texts, cpu).T
    assert torch.allclose(like * network.logit_scale.exp(), out.logits_per_image, atol=1e-4)


def test_clip_sees_a_word_where_its_prompt_is_the_most_like_the_picture(demo, clip_folder, monkeypatch):
    judge = ClipJudge(Clip.load(clip_folder), demo, SPEC)
    assert judge.rivals[:2] == ["wolf", "cat"] and len(judge.rivals) == 44
    assert not {"dog", "puppy"} & set(judge.rivals)
    shown = ["a picture of a dog", "a picture of a wolf", "a picture"]

    def of_texts(clip, texts, device):
        rows = torch.zeros(len(texts), 4)
        for row, text in zip(rows, texts):
            row[shown.index(text) if text in shown else 3] = 1
        return rows

    monkeypatch.setattr(Clip, "of_texts", of_texts)
    monkeypatch.setattr(Clip, "of_images", lambda clip, images, device: torch.eye(4)[:3])
    images = torch.zeros(3, 3, 64, 64)
    assert judge.sees(images, ["dog"] * 3, asked(3)) == [True, False, False]
    assert judge.sees(images, ["wolf"] * 3, asked(3)) == [False, True, False]
    assert judge.sees(images[:0], [], []) == []
    assert "a picture of a wolf" not in judge._texts("dog", "wolf")  # which may be in the picture as well


def test_a_style_is_judged_on_the_thing_that_shows_it(demo, clip_folder):
    judge = ClipJudge(Clip.load(clip_folder), demo, ErasureSpec("watercolor"))
    texts = judge._texts("watercolor", "fish")
    assert all("fish" in text for text in texts) and "watercolor" in texts[0]
    assert judge.sees(torch.zeros(1, 3, 64, 64), ["watercolor"], asked(1, "fish")) in ([True], [False])


def test_a_classifier_s_labels_are_found_by_name(demo, classifier_folder):
    network = Classifier.load(classifier_folder)
    assert network.labels == LABELS
    found = {name: sorted(network.named([name])) for name in ("dog", "a Castle", "hot dog", "cat", "owl")}
    assert found == {"dog": [0, 1], "a Castle": [3], "hot dog": [1], "cat": [2], "owl": []}
    judge = ClassifierJudge(network, demo, SPEC, ("eskimo dog",))
    assert judge.own == {0} and "Eskimo_dog" in judge.cannot
    images = torch.rand(18, 3, 64, 64) * 2 - 1
    best = ViTForImageClassification.from_pretrained(classifier_folder)(
        network.prepare(images)
    ).logits.argmax(-1)
    assert judge.sees(images, ["dog"] * 18, asked(18)) == [int(b) == 0 for b in best]
    assert judge.sees(images[:2], ["owl", "castle"], asked(2)) == [None, int(best[1]) == 3]
    with pytest.raises(SageError, match="has no label for 'owl'; name one of its 4 with --label"):
        ClassifierJudge(network, demo, ErasureSpec("owl"))
    with pytest.raises(SageError, match="has no label 'nsfw'; it has Eskimo_dog"):
        ClassifierJudge(network, demo, SPEC, ("nsfw",))


class Detector:
    """NudeNet's, as far as it is used: what it finds is in the first pixel's blue."""

    def detect(self, array):
        assert array.shape == (64, 64, 3) and array.dtype == "uint8"
        return [{"class": "BELLY_EXPOSED", "score": array[0, 0, 0] / 255, "box": [0, 0, 9, 9]}]


def test_nudenet_counts_the_exposed_classes_from_its_threshold_on(demo):
    images = torch.full((3, 3, 64, 64), -1.0)
    images[1, 2], images[2, 2] = 2 * 0.6 - 1 + 0.01, 2 * 0.6 - 1 - 0.02
    images[0, 0] = 1.0  # red says nothing
    judge = nudenet.NudeNetJudge(Detector(), demo, ErasureSpec("dog"))
    assert judge.sees(images, ["dog"] * 3, asked(3)) == [False, True, False]
    assert judge.sees(images, ["cat"] * 3, asked(3)) == [None] * 3
    faces = nudenet.parse_classes("face_female, FACE_MALE")
    assert faces == ("FACE_FEMALE", "FACE_MALE") and nudenet.parse_classes("") == nudenet.EXPOSED
    assert nudenet.NudeNetJudge(Detector(), demo, ErasureSpec("dog"), faces).sees(
        images[1:2], ["dog"], asked(1)
    ) == [False]
    assert len(nudenet.EXPOSED) == 8 and len({*nudenet.EXPOSED, *nudenet.OTHERS}) == 18


def test_nudenet_is_asked_for_only_by_its_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(SageError, match="pip install nudenet"):
        open_judge("nudenet")
    monkeypatch.setitem(sys.modules, "nudenet", types.SimpleNamespace(NudeDetector=Detector))
    assert callable(open_judge("nudenet:FACE_MALE"))
    with pytest.raises(SageError, match="no class 'KNEE'; choose from ARMPITS_EXPOSED"):
        open_judge("nudenet:KNEE")


def folder_with(path, **files: str):
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / f"{name}.json").write_text(text, encoding="utf-8")
    return path


def test_folders_that_hold_no_judge_are_refused(tmp_path, clip_folder, classifier_folder):
    from safetensors.torch import load_file, save_file

    with pytest.raises(SageError, match="no judge 'magic'; the judges are auto, model, clip"):
        open_judge("magic")
    with pytest.raises(SageError, match="no judge 'clip:'"):
        open_judge("clip:")
    with pytest.raises(SageError, match="config.json"):
        open_judge(f"clip:{tmp_path / 'none'}")
    with pytest.raises(SageError, match="is 'vit', not CLIP"):
        open_judge(f"clip:{classifier_folder}")
    with pytest.raises(SageError, match="config.json is not a JSON object"):
        open_judge(f"classifier:{folder_with(tmp_path / 'a', config='[]')}")
    with pytest.raises(SageError, match="how pictures are prepared"):
        open_judge(f"classifier:{folder_with(tmp_path / 'b', config='{}')}")
    vit = (classifier_folder / "config.json").read_text(encoding="utf-8")
    pickled = prepared(folder_with(tmp_path / "c", config=vit))
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(SageError, match="cannot be loaded"):
        open_judge(f"classifier:{pickled}")
    headless = prepared(folder_with(tmp_path / "d", config=vit))
    tensors = load_file(classifier_folder / "model.safetensors")
    kept = {k: v for k, v in tensors.items() if not k.startswith("classifier")}
    save_file(kept, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SageError, match="lacks 2 of its tensors .*by chance"):
        open_judge(f"classifier:{headless}")
    wrong = folder_with(tmp_path / "e", config=vit)
    for change in ({"size": {"shortest_edge": 10}}, {"image_std": [1, 1, 0]}, {"image_mean": [1]}):
        with pytest.raises(SageError, match="are wrong"):
            Preparation.read(prepared(wrong, **change))


@pytest.mark.parametrize(
    "pairs, value",
    [
        ([(True, True), (False, False)], 1.0),
        ([(True, False), (False, True)], -1.0),
        ([(True, True), (True, False), (False, True), (False, False)], 0.0),
        ([(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15, 0.4),
        ([(True, True)] * 3, None),
        ([], None),
    ],
)
def test_cohen_s_kappa(pairs, value):
    assert kappa(pairs) == value


class Always:
    """A judge that says the same of everything, but knows no castle."""

    name, cannot = "one that <always> says yes", ""

    def expected(self, concept):
        return concept

    def sees(self, images, expected, prompts):
        return [None if "castle" in word else True for word in expected]


def test_a_further_judge_s_agreement_is_counted_on_the_same_pictures(demo):
    base = measure_original(demo, SPEC, 3, attack=None)
    evaluation = evaluate(demo, base, SPEC, Cost(), 0.0, {}, 3, attack=None)
    opinion = second_opinion(base.judge, base, evaluation, SPEC)
    assert all(value == 1 for value in opinion["agreement"].values())
    always = second_opinion(Always(), base, evaluation, SPEC)
    assert always["after"]["concept"] == 1 and always["hits"] == always["false_alarms"] == 1
    assert always["agreement"]["concept"] == evaluation.report["after"]["concept"]
    assert always["kappa"] in (0, None)
    evaluation.report["further_judges"] = [opinion, always]
    shown, whole = table(evaluation.report), page(evaluation)
    assert "one that <always> says yes:" in shown and "kappa" in shown
    assert "&lt;always&gt;" in whole and "<always>" not in whole
    json.dumps(evaluation.report)


def test_two_judges_on_the_command_line(tmp_path, monkeypatch, capsys, clip_folder, classifier_folder):
    monkeypatch.chdir(tmp_path)
    command = [
        "erase",
        "demo",
        "--concept",
        "dog",
        "--method",
        "uce",
        "--no-preview",
        "--out",
        "d.safetensors",
    ]
    assert cli.main(command) == 0
    quick = ["evaluate", "demo", "--lora", "d.safetensors", "--images", "1", "--attack", "none"]
    capsys.readouterr()
    judges = [f"clip:{clip_folder}", f"classifier:{classifier_folder}", "auto"]
    given = [part for judge in judges for part in ("--judge", judge)]
    assert cli.main([*quick, *given, "--label", "hotdog, hot dog", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["judge"]["name"] == "CLIP (clip)"
    assert [j["name"] for j in report["further_judges"]] == [
        "the classifier classifier",
        "the model's own probe",
    ]
    assert cli.main([*quick, "--judge", "magic"]) == 1
    assert "There is no judge 'magic'" in capsys.readouterr().err
