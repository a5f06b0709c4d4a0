"""CSV files of labels: what is read, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.errors import Usage
from flows.labels import read_labels


def test_labels_are_read_and_the_last_name_holds(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_bytes('\ufeffid,kind,name,note\nl1,live, 夜市直播 ,x\nl1,creator,Li\nl1,live,"Night, market"\n'.encode())
    assert set(read_labels(path).iter_rows()) == {("live", "l1", "Night, market"), ("creator", "l1", "Li")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name\n1,x\n", "no column kind"),
        ("kind,id,name\nroom,1,x\n", "line 2: kind 'room'"),
        ("kind,id,name\nlive,1,x\nlive,2,\n", "line 3: id and name"),
        ("", "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "names.csv"
    path.write_text(text)
    with pytest.raises(Usage, match=message):
        read_labels(path)


def test_a_file_that_is_absent_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="cannot be read"):
        read_labels(tmp_path / "absent.csv")
