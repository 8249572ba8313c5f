"""Lists of prompts: the columns that published ones have, plain lines, and files that are wrong once."""

import pytest

from sage_core import SageError
from sage_core.evaluate import lists
from sage_core.evaluate.lists import Line, read_list


def written(path, text: str, encoding: str = "utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


@pytest.mark.parametrize(
    "name, text, lines",
    [
        (  # I2P
            "i2p.csv",
            "prompt,lexica_url,hard,sd_seed,sd_guidance_scale\n"
            '"a dog, ""big""",x,0,4048390007,7.5\na cat,y,1,,\n',
            [Line('a dog, "big"', 4048390007, 7.5), Line("a cat")],
        ),
        (
            "i2p_all.csv",
            'prompt,categories,sd_seed,sd_guidance_scale\na dog,"hate, violence",1,7\na cat,,2,8\n',
            [Line("a dog", 1, 7.0, "", ("hate", "violence")), Line("a cat", 2, 8.0)],
        ),
        (
            "artists.csv",
            "case_number,prompt,evaluation_seed,artist\n0,a hut,7,Van Gogh\n",
            [Line("a hut", 7, None, "Van Gogh")],
        ),
        (
            "classes.csv",
            ",case_number,prompt,evaluation_seed,class\n0,0,a tench,1,tench\n",
            [Line("a tench", 1, None, "tench")],
        ),
        (  # what erasing papers pass around
            "ring.csv",
            "case_number,prompt,evaluation_seed\r\n1,a dog,12.0\r\n2,,3\r\n",
            [Line("a dog", 12)],
        ),
        ("mma.csv", "target_prompt,adv_prompt\na dog,dxg pqr\n", [Line("dxg pqr")]),
        ("coco.tsv", "image_id\tCaption\n1\tA dog, on a sofa; asleep\n", [Line("A dog, on a sofa; asleep")]),
        ("europe.csv", "text;guidance\nein Hund, groß;3\n", [Line("ein Hund, groß", None, 3.0)]),
        ("lines.csv", 'prompt\n"a dog\nin two lines"\n', [Line("a dog\nin two lines")]),
        ("plain.txt", "a dog\n\n# not this\n  a cat, big  \n", [Line("a dog"), Line("a cat, big")]),
        ("plain", "a dog", [Line("a dog")]),
    ],
)
def test_lists_that_people_have_are_read(tmp_path, name, text, lines):
    for encoding in ("utf-8", "utf-8-sig"):
        found = read_list(written(tmp_path / name, text, encoding))
        assert list(found.lines) == lines and found.name == name.split(".")[0]


def test_a_list_is_named_by_its_file_or_by_the_user(tmp_path):
    file = written(tmp_path / "my list (2).txt", "a dog")
    assert read_list(file).name == "my-list-2"
    assert read_list(f"dogs={file}").name == "dogs"
    odd = written(tmp_path / "a=b.txt", "a dog")
    assert read_list(odd).name == "a-b"
    with pytest.raises(SageError, match="cannot be called '<b>'"):
        read_list(f"<b>={file}")


def test_some_of_a_list_are_spread_over_all_of_it(tmp_path):
    found = read_list(written(tmp_path / "a.txt", "\n".join(str(i) for i in range(10))))
    assert [line.text for line in found.spread(4)] == ["0", "2", "5", "7"]
    assert len(found.spread(0)) == len(found.spread(99)) == 10


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.csv", "id,words\n1,a dog\n", "no column of prompts .*id, words.*adv_prompt, prompt"),
        ("a.csv", "", "no column of prompts"),
        ("a.csv", "prompt\n", "no column of prompts|0 prompts"),
        ("a.csv", "prompt,seed\na dog,soon\n", "row 1: the seed 'soon'"),
        ("a.csv", "prompt,seed\na dog,1.5\n", "the seed '1.5'"),
        ("a.csv", "prompt,seed\na dog,-1\n", "the seed '-1'"),
        ("a.csv", "prompt,guidance\na dog,nan\n", "the guidance 'nan'"),
        ("a.csv", "prompt,guidance\na cat,1\na dog,1e9\n", "row 2: the guidance '1e9'"),
        ("a.csv", "prompt,seed\na dog\n", ""),  # a short row says nothing of a seed
        ("a.txt", "\n# nothing\n", "0 prompts"),
        ("a.txt", "x" * 10_001, "prompt 1: 10,001 characters"),
        ("a.txt", "a\0b", "zero byte"),
        ("a.csv", 'prompt\n"' + "x" * 200_000 + '"\n', "cannot be read"),
        ("a.txt", "x\n" * 100_001, "100,001 prompts"),
    ],
)
def test_a_wrong_list_is_refused_in_a_sentence(tmp_path, name, text, words):
    file = written(tmp_path / name, text)
    if not words:
        assert read_list(file).lines == (Line("a dog"),)
        return
    with pytest.raises(SageError, match=words):
        read_list(file)


def test_files_that_are_no_text_are_refused(tmp_path, monkeypatch):
    for file in (
        "none.txt",
        "x=none.txt",
        "x" * 5000,
        "x=" + "y" * 5000,
        str(tmp_path),
        written(tmp_path / "a.txt", "ä", "latin-1"),
    ):
        with pytest.raises(SageError, match="cannot be read"):
            read_list(file)
    monkeypatch.setattr(lists, "MOST_BYTES", 10)
    with pytest.raises(SageError, match="at most"):
        read_list(written(tmp_path / "b.txt", "a dog " * 10))
