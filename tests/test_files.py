"""Files: whole or absent, and inside their folder."""

from pathlib import Path

import pytest

from sage_core import SageError
from sage_core.files import output_path, write_atomically, write_text


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old")

    def fail(temporary: Path):
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_sentence(tmp_path):
    def fail(temporary: Path):
        raise OSError(28, "No space left on device")

    with pytest.raises(SageError, match="No space left"):
        write_atomically(tmp_path / "x", fail)


@pytest.mark.parametrize("name", [
    "../x", "a/../../x", "/etc/x", "..\\x", "a//b", "con", "NUL.txt", "a:b",
    "x\x00y", "", ".", " x", "x.", "a" * 300, 'a"b', "a|b", "a?b",
])
def test_names_that_leave_the_folder_or_break_a_system_are_refused(tmp_path, name):
    with pytest.raises(SageError):
        output_path(tmp_path, name)


@pytest.mark.parametrize("name, expected", [("dog", "dog.safetensors"), ("dog.safetensors", "dog.safetensors"), ("sub/dog", "sub/dog.safetensors"),
                                            ("Hund über Bord", "Hund über Bord.safetensors"), ("v1.5", "v1.5.safetensors"), ("犬", "犬.safetensors")])
def test_ordinary_names_are_kept(tmp_path, name, expected):
    assert output_path(tmp_path, name) == tmp_path / expected


def test_a_link_that_leads_out_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path)
    with pytest.raises(SageError, match="leads out"):
        output_path(tmp_path / "in", "link/x")
