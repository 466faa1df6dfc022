"""The reader of definition files, against rosbags' own parser and on files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from rosbags.typesys import get_types_from_msg

from inference_service.core.errors import ProtocolError
from inference_service.wire import definitions

TEXT = """\
# a comment
int32 A=-5
uint8 HEX=0x1F
float64 HALF = 0.5
bool YES=true
string WORD="hi"
byte level            # another
string<=10 short
uint8[16] fixed
float64[<=4] bounded
string[] words
Time stamp
std_msgs/Header[] headers
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(definitions, "FOLDER", tmp_path)
    definitions._sections.cache_clear()
    (tmp_path / "own_msgs" / "msg").mkdir(parents=True)
    (tmp_path / "own_msgs" / "srv").mkdir()
    yield tmp_path
    definitions._sections.cache_clear()


def test_reads_what_rosbags_reads(folder: Path):
    (folder / "own_msgs" / "msg" / "All.msg").write_text(TEXT)
    expected = get_types_from_msg(TEXT, "own_msgs/msg/All")["own_msgs/msg/All"]
    assert definitions.load_definition("own_msgs/msg/All") == expected


def test_names_the_line_that_it_cannot_read(folder: Path):
    (folder / "own_msgs" / "msg" / "Bad.msg").write_text("int32 a\nint32[ b\n")
    with pytest.raises(ProtocolError, match=r"Bad.msg: cannot read 'int32\[ b'"):
        definitions.load_definition("own_msgs/msg/Bad")


def test_says_where_a_missing_definition_belongs(folder: Path):
    with pytest.raises(ProtocolError, match=str(folder)):
        definitions.load_definition("own_msgs/msg/Missing")


def test_a_service_has_two_parts(folder: Path):
    (folder / "own_msgs" / "srv" / "Ask.srv").write_text("string q\n---\nOther a\n")
    names = ["own_msgs/srv/Ask_Request", "own_msgs/srv/Ask_Response"]
    question, answer = (definitions.load_definition(name) for name in names)
    assert [name for name, _ in question[1]] == ["q"]
    assert definitions.dependencies(answer) == ["own_msgs/msg/Other"]
