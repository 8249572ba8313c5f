"""Hostile input: whatever comes in, what comes out is a value or one sentence.

Hundreds of cases a property; 10,000 with SAGE_LONG=1.
"""

import json
import os
import struct
import tempfile
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from sage_core import ErasureSpec, SageError
from sage_core.diffusion.load import load_model
from sage_core.files import output_path
from sage_core.jobs.batch import read_jobs
from sage_core.lora.file import read_lora
from sage_core.lora.metadata import LEFT_KEY, LOSSES_KEY, RESULT_KEY, SPEC_KEY, SPECS_KEY
from sage_core.spec import parse_concepts

LONG = "SAGE_LONG" in os.environ
many = settings(
    max_examples=10_000 if LONG else 200,
    deadline=None,
    database=None,
    derandomize=not LONG,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
few = settings(many, max_examples=1_000 if LONG else 40)  # where a case loads a model

FIELDS = (
    "concept",
    "synonyms",
    "retain",
    "method",
    "seed",
    "surface",
    "steps",
    "rank",
    "alpha",
    "learning_rate",
    "eta",
    "resolution",
    "faithful",
    "kind",
)
ODD = st.sampled_from(
    [
        "",
        " ",
        "\x00",
        "\x1b[2J",
        "\ud800",
        "🐶",
        "👨‍👩‍👧",
        "a" * 400,
        "\u202e",
        "dog",
        "sage",
        "uce",
        "both",
        "../x",
        "(dog:1.2)",
        "embedding:x",
        "<lora:a:1>",
        10**400,
        -(10**400),
        2**63,
        0,
        -1,
        1.5,
        float("nan"),
        float("inf"),
        True,
        None,
    ]
)
VALUES = st.recursive(
    ODD | st.text(max_size=20) | st.integers() | st.floats(),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=8), x, max_size=4),
    max_leaves=8,
)
PARTS = [
    "..",
    ".",
    "/",
    "\\",
    "con",
    "nul.txt",
    "a",
    " ",
    "\x00",
    ":",
    "x" * 250,
    "\ud800",
    "é",
    "🐶",
    "~",
    "$HOME",
]


def outcome(call, *errors):
    """What `call` returns, or None where it was refused in a sentence as a user is to read it."""
    try:
        return call()
    except SageError as error:
        text = str(error)
        assert (
            text
            and "\n" not in text
            and "Traceback" not in text
            and len(text) < 700
            and all(c.isprintable() for c in text)
        ), repr(text)
        return None


@many
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=10), VALUES, max_size=8) | VALUES)
def test_any_json_is_a_spec_or_a_sentence(data):
    spec = outcome(lambda: ErasureSpec.from_json(data))
    if spec is not None:
        again = ErasureSpec.from_json(json.loads(json.dumps(spec.to_json())))
        assert (
            again == spec
            and again.recipe().fingerprint() == spec.recipe().fingerprint()
            and again.recipe().steps >= 1
        )


@many
@given(st.text(max_size=60) | st.lists(st.sampled_from(PARTS), max_size=8).map("".join))
def test_a_name_becomes_a_file_inside_the_folder_or_a_sentence(name):
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "in"
        inside.mkdir()
        path = outcome(lambda: output_path(inside, name))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
            assert path.resolve().is_relative_to(inside.resolve()) and path.suffix == ".safetensors"
        assert [p.name for p in Path(folder).iterdir()] == ["in"]


@many
@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(["dog", "|", ",", "\n", " ", "\x00", "(dog:1.1)", "\u2028"]), max_size=12).map(
        "".join
    )
)
def test_a_list_of_concepts_is_specs_or_a_sentence(text):
    found = outcome(lambda: parse_concepts(text))
    for name, synonyms in found or []:
        outcome(lambda: ErasureSpec(name, synonyms))  # noqa: B023 (called at once)


@many
@given(
    st.binary(max_size=60)
    | VALUES.map(lambda v: json.dumps(v, default=str).encode())
    | st.just(b"[" * 100_000),
    st.sampled_from(["jobs.json", "jobs.txt"]),
)
def test_a_job_file_is_specs_or_a_sentence(content, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        outcome(lambda: read_jobs(path, {"method": "sage"}))


def header(tensors: dict, data: bytes, length: int | None = None) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


SIZES = {"F16": 2, "BF16": 2, "F32": 4, "I64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
SHAPE = st.lists(st.integers(0, 4), max_size=4)
OFFSETS = st.integers(-2, 70) | st.sampled_from([2**31, 2**40, 2**62, 10**10])
ENTRY = st.fixed_dictionaries(
    {
        "dtype": (
            st.sampled_from(
                ["F16", "F32", "BF16", "I64", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "U16", "X", ""]
            )
            | VALUES
        ),
        "shape": st.lists(st.integers(-1, 5) | st.sampled_from([2**31, 2**62]), max_size=4) | VALUES,
        "data_offsets": st.lists(OFFSETS, min_size=2, max_size=2) | VALUES,
    }
)
NAMES = st.sampled_from(
    ["lora_te_x.lora_down.weight", "lora_te_x.lora_up.weight", "lora_te_x.alpha", "__metadata__", "x", ""]
)


@many
@given(
    st.dictionaries(NAMES, ENTRY | VALUES, max_size=4),
    st.binary(max_size=64),
    st.none() | st.integers(0, 300) | st.sampled_from([2**31, 2**62, 2**64 - 1]),
)
def test_a_header_that_lies_is_a_sentence_and_takes_no_memory(tensors, data, length):
    tensors = json.loads(json.dumps(tensors, default=str))
    read_hostile(header(tensors, data, length))


@many
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_file_is_a_sentence(tail, place, byte):
    whole = bytearray(save(matrices(), {"sage.spec": "{}"}))
    whole[place % len(whole)] = byte
    read_hostile(bytes(whole))
    read_hostile(bytes(whole[: place % len(whole)]) + tail)


@many
@given(st.sampled_from(sorted(SIZES)), SHAPE, SHAPE, SHAPE, st.integers(0, 255))
def test_matrices_that_do_not_fit_are_a_sentence(dtype, down, up, alpha, byte):
    size = SIZES[dtype]
    tensors, end = {}, 0
    for name, shape in (("lora_down.weight", down), ("lora_up.weight", up), ("alpha", alpha)):
        start, end = end, end + size * int(torch.tensor(shape).prod())
        tensors[f"lora_te_x.{name}"] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    lora = read_hostile(header(tensors, bytes([byte if dtype != "BOOL" else byte % 2]) * end))
    if lora is not None:
        assert all(
            d.isfinite().all() and u.isfinite().all() and len(d) == u.shape[1]
            for d, u, _ in lora.layers.values()
        )


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"[" * 10_000,
        b'{"a":' * 10_000,
        b'{"__metadata__":{"sage.spec":1}}',
        b'{"__metadata__":{"format":"pt"}}',
        b"null",
        b"\xff\xfe",
        b'{"a":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}}',
    ],
)
def test_known_tricks_with_headers_are_a_sentence(raw):
    assert read_hostile(struct.pack("<Q", len(raw)) + raw + bytes(8)) is None


def read_hostile(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(content)
        tracemalloc.start()
        lora = outcome(lambda: read_lora(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50_000_000
        return lora


def matrices() -> dict[str, torch.Tensor]:
    return {
        "lora_te_x.lora_down.weight": torch.ones(2, 3),
        "lora_te_x.lora_up.weight": torch.ones(3, 2),
        "lora_te_x.alpha": torch.tensor(2.0),
    }


KNOWN = [
    "[" * 100_000,
    "NaN",
    '{"before": {"concept": NaN}, "after": {}}',
    '[{"total": 1e999}]',
    '{"concept": "dog", "seed": 1e999}',
]
TEXTS = st.text(max_size=30) | VALUES.map(lambda v: json.dumps(v, default=str)) | st.sampled_from(KNOWN)
CONFIGS = [
    "model_index.json",
    "unet/config.json",
    "text_encoder/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
]
PIECES = [
    "dog ",
    "🐶",
    "embedding:x ",
    "(a:1.2) ",
    "[b] ",
    "BREAK ",
    ", ",
    "\\(",
    "word " * 30,
    "\n",
    "\x00",
    "é" * 50,
]


@many
@given(
    st.dictionaries(
        st.sampled_from(
            [SPEC_KEY, SPECS_KEY, RESULT_KEY, LOSSES_KEY, LEFT_KEY, "\x1b[2Jx", "modelspec.title"]
        ),
        TEXTS,
        max_size=4,
    )
)
def test_any_metadata_is_read_or_a_sentence(metadata):
    lora = read_hostile(
        save(matrices(), {k: v.encode("utf-8", "replace").decode() for k, v in metadata.items()})
    )
    outcome(lora.spec), outcome(lora.specs), outcome(lambda: ErasureSpec.from_json(lora.spec()))
    result = lora.result()
    assert result is None or all(isinstance(result[when], dict) for when in ("before", "after"))
    assert all(abs(v) < 1e31 for step in lora.losses() for v in step.values()) and all(
        0 <= share <= 1 for _, share in lora.left()
    )


@few
@given(data=st.data())
def test_a_checkpoint_with_parts_missing_misshapen_or_of_another_kind_is_loaded_or_a_sentence(sd1, data):
    import tiny

    sd = dict(WHOLE.setdefault("sd1", tiny.original(sd1)))
    for key in data.draw(st.lists(st.sampled_from(sorted(sd)), min_size=1, max_size=3, unique=True)):
        change = data.draw(
            st.sampled_from(
                ["missing", "flat", "wider", "empty", "nan", "integer", "eight bits", "complex", "renamed"]
            )
        )
        value = sd.pop(key)
        if change != "missing":
            sd[key + "x" if change == "renamed" else key] = changed(value, change)
    outcome(lambda: load_model(sd))


WHOLE: dict = {}


def changed(value: torch.Tensor, how: str) -> torch.Tensor:
    return {
        "flat": lambda: value.flatten(),
        "wider": lambda: torch.cat([value, value], -1) if value.ndim else value,
        "empty": lambda: value[:0],
        "nan": lambda: torch.full(value.shape, float("nan")),
        "integer": lambda: value.to(torch.int32),
        "eight bits": lambda: value.to(torch.float8_e4m3fn),
        "complex": lambda: value.to(torch.complex64),
        "renamed": lambda: value,
    }[how]()


@few
@given(data=st.data())
def test_a_folder_with_odd_configurations_is_loaded_or_a_sentence(data, hostile_folder):
    part = data.draw(st.sampled_from(CONFIGS))
    path = hostile_folder / part
    whole = path.read_bytes()
    config = json.loads(whole)
    for _ in range(data.draw(st.integers(1, 2))):
        config[data.draw(st.sampled_from(sorted(config)))] = data.draw(VALUES)
    try:
        path.write_text(
            data.draw(st.sampled_from([json.dumps(config, default=str), "[]", "{", "{}"])), encoding="utf-8"
        )
        outcome(lambda: load_model(hostile_folder))
    finally:
        path.write_bytes(whole)


@pytest.fixture(scope="module")
def hostile_folder(tmp_path_factory):
    import tiny

    return tiny.folder(tiny.make("sd1"), tmp_path_factory.mktemp("hostile") / "m")


@few
@given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_prompt_is_encoded_whatever_its_length(thin, prompt):
    with torch.no_grad():
        cond = thin.text.encode(thin.text.tokenize([prompt], truncate=True))
    assert cond.hidden.shape[:2] == (1, 77) and cond.hidden.isfinite().all()
    outcome(lambda: thin.text.tokenize([prompt]))
