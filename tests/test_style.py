"""What the formatter and the linter do not check: no comprehension that takes a second reading."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [path for room in ("sage_core", "nodes", "tools") for path in sorted((ROOT / room).rglob("*.py"))]
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
MOST_NESTED = 1  # comprehensions inside others, a statement
MOST_FORS = 2  # in one comprehension


def expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """What is in a statement, without the statements of its body."""
    rest = list(ast.iter_child_nodes(statement))
    while rest:
        node = rest.pop()
        if not isinstance(node, ast.stmt):
            yield node
            rest += ast.iter_child_nodes(node)


def problems(source: str) -> list[str]:
    """`line: what is wrong` of every statement that is too clever."""
    found = []
    for statement in ast.walk(ast.parse(source)):
        if not isinstance(statement, ast.stmt):
            continue
        outer = [node for node in expressions(statement) if isinstance(node, COMPREHENSIONS)]
        nested = set()
        for comprehension in outer:
            nested |= {n for n in ast.walk(comprehension) if isinstance(n, COMPREHENSIONS)} - {comprehension}
            if len(comprehension.generators) > MOST_FORS:
                found.append(f"{comprehension.lineno}: {len(comprehension.generators)} fors")
        if len(nested) > MOST_NESTED:
            found.append(f"{statement.lineno}: {len(nested)} nested comprehensions")
    return found


def test_the_check_sees_what_it_looks_for():
    assert problems("a = [f(x for x in y) for y in z]\nb = [x for y in z for x in y]") == []
    assert problems("def f():\n    return [[[c for c in b] for b in a] for a in z]") == [
        "2: 2 nested comprehensions"
    ]
    assert problems("a = [{x for x in y} | {x for x in z} for y, z in w]") == ["1: 2 nested comprehensions"]
    assert problems("if any(f(x, y, z) for x in a for y in b for z in c):\n    pass") == ["1: 3 fors"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_statement_nests_comprehensions_more_than_once(path):
    assert problems(path.read_text(encoding="utf-8")) == []
