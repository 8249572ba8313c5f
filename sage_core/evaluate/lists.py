"""Prompt lists that users bring: I2P, Ring-A-Bell, MMA-Diffusion, COCO captions, or plain lines.

A table (.csv, .tsv) has a column of prompts, and may have columns of seeds, guidance, categories and labels.
Any other text file has one prompt a line.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import SageError, one_line, shown
from ..files import slug

# The first of each that a table has is read; names are compared in lower case.
PROMPT_COLUMNS = ("adv_prompt", "prompt", "sensitive prompt", "caption", "text", "target_prompt")
SEED_COLUMNS = ("evaluation_seed", "sd_seed", "seed")
LABEL_COLUMNS = ("class", "artist", "label")
CATEGORY_COLUMNS = ("categories", "category")
GUIDANCE_COLUMNS = ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance")
TABLES = {".csv": ",;\t", ".tsv": "\t"}  # what may stand between the cells
MOST_BYTES = 50 * 2**20
MOST_PROMPTS = 100_000
LONGEST = 10_000  # characters of a prompt
MOST_GUIDANCE = 50.0
SEED = re.compile(r"([0-9]{1,18})(\.0*)?", re.ASCII)
NAME = re.compile(r"\w[\w. -]{0,39}")


@dataclass(frozen=True)
class Line:
    """One prompt of a list; None where the list does not say. label: the class or artist that its picture is
    to show. categories: as I2P sorts its prompts ("sexual", "violence").
    """

    text: str
    seed: int | None = None
    guidance: float | None = None
    label: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptList:
    """A list under the name of its cell."""

    name: str
    lines: tuple[Line, ...]

    def spread(self, count: int) -> list[Line]:
        """`count` of its prompts, evenly from the whole list; all of them for 0 or where it has fewer."""
        if count == 0 or count >= len(self.lines):
            return list(self.lines)
        return [self.lines[i * len(self.lines) // count] for i in range(count)]


def read_list(argument: str) -> PromptList:
    """`FILE` or `NAME=FILE`. Raises SageError for what cannot be read as a list of prompts."""
    path, name = Path(argument), ""
    if "=" in argument and not _is_file(path):
        name, _, file = argument.partition("=")
        path = Path(file)
    name = name.strip() or slug(path.stem)[:40]
    if not NAME.fullmatch(name):
        raise SageError(
            f"A list of prompts cannot be called {shown(name)}; use up to 40 letters, digits, spaces, - and"
            " _."
        )
    delimiters = TABLES.get(path.suffix.lower())
    text = _text(path)
    lines = _of_lines(text) if delimiters is None else _of_table(text, delimiters, path.name)
    if not 1 <= len(lines) <= MOST_PROMPTS:
        raise SageError(
            f"The list {path.name} has {len(lines):,} prompts; a list has from 1 to {MOST_PROMPTS:,}."
        )
    for number, line in enumerate(lines, 1):
        if len(line.text) > LONGEST or "\0" in line.text:
            raise SageError(
                f"{path.name}, prompt {number}: {len(line.text):,} characters or a zero byte; a prompt is"
                f" text of at most {LONGEST:,} characters."
            )
    return PromptList(name, tuple(lines))


def _is_file(path: Path) -> bool:
    """False as well for a name that no system can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise SageError(
                f"The list {path.name} has {size / 2**20:.0f} MB; at most {MOST_BYTES // 2**20} are read."
            )
        return path.read_text(encoding="utf-8-sig")  # a spreadsheet's mark at the beginning is no text
    except (OSError, ValueError) as error:
        raise SageError(
            f"The list of prompts {str(path)!r} cannot be read ({one_line(error)}); it is a UTF-8 text file:"
            " .csv, .tsv, or one prompt a line."
        ) from error


def _of_lines(text: str) -> list[Line]:
    """Empty lines and those that begin with # are left out."""
    lines = [line.strip() for line in text.splitlines()]
    return [Line(line) for line in lines if line and not line.startswith("#")]


def _of_table(text: str, delimiters: str, title: str) -> list[Line]:
    """The rows of a table that have a prompt."""
    header = text.split("\n", 1)[0]
    delimiter = max(delimiters, key=header.count)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise SageError(f"The table {title} cannot be read ({one_line(error)}).") from error
    columns = {str(name).strip().lower(): name for name in (rows[0] if rows else ()) if name is not None}
    found = _first(columns, PROMPT_COLUMNS)
    if found is None:
        raise SageError(
            f"The table {title} has no column of prompts (it has {shown(', '.join(columns))}); name one of"
            f" its columns {', '.join(PROMPT_COLUMNS)}."
        )
    seeds, guidances = _first(columns, SEED_COLUMNS), _first(columns, GUIDANCE_COLUMNS)
    labels, categories = _first(columns, LABEL_COLUMNS), _first(columns, CATEGORY_COLUMNS)
    lines = []
    for number, row in enumerate(rows, 1):
        prompt = (row[found] or "").strip()
        if not prompt:
            continue
        where = f"{title}, row {number}"
        seed = _seed(row[seeds], where) if seeds else None
        guidance = _guidance(row[guidances], where) if guidances else None
        label = (row[labels] or "").strip() if labels else ""
        sorts = (row[categories] or "").split(",") if categories else ()
        sorts = tuple(sort.strip() for sort in sorts if sort.strip())
        lines.append(Line(prompt, seed, guidance, label, sorts))
    return lines


def _first(columns: dict[str, str], wanted: tuple[str, ...]) -> str | None:
    return next((columns[name] for name in wanted if name in columns), None)


def _seed(cell: str | None, where: str) -> int | None:
    """None for an empty cell. Spreadsheets write a whole number as 12.0 too."""
    text = (cell or "").strip()
    if not text:
        return None
    match = SEED.fullmatch(text)
    if match is None:
        raise SageError(f"{where}: the seed {shown(text)} is not a whole number from 0 to 10^18.")
    return int(match[1])


def _guidance(cell: str | None, where: str) -> float | None:
    """None for an empty cell."""
    text = (cell or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MOST_GUIDANCE:
        raise SageError(f"{where}: the guidance {shown(text)} is not a number from 0 to {MOST_GUIDANCE:g}.")
    return value
