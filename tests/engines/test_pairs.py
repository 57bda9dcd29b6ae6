"""Files of pairs and prompts are read strictly, and no error repeats a prompt."""

from __future__ import annotations

import json

import pytest

from engines.errors import InputError
from engines.pairs import Pair, lacking, read_pairs, read_prompts, read_prompts_or_pairs

SECRET = "xyzzy"  # stands for what no error may print
TWO = [{"safe": "a star, red", "unsafe": "a burning star, red"}, {"safe": "a sun", "unsafe": "a burning sun"}]


def written(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json_and_csv_hold_the_same(tmp_path):
    as_json = written(tmp_path / "pairs.json", json.dumps(TWO))
    as_csv = written(
        tmp_path / "pairs.csv", '\ufeffsafe,unsafe\r\n"a star, red","a burning star, red"\r\n\r\na sun,a burning sun\r\n'
    )
    expected = [Pair(**entry) for entry in TWO]
    assert read_pairs([as_json]) == read_pairs([as_csv]) == read_pairs([as_csv, as_json]) == expected


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("p.txt", f"{SECRET}", "in a file ending in .json or .csv, found '.txt'"),
        ("p.json", f"[{SECRET}", "found no valid JSON at line 1"),
        ("p.json", f'[{{"safe": "{SECRET}", "safe": "a", "unsafe": "b"}}]', "found no valid JSON"),
        ("p.json", f'{{"safe": "{SECRET}"}}', "found dict"),
        ("p.json", "[]", "found none"),
        ("p.json", f'[{{"safe": "{SECRET}", "unsafe": 3}}]', "entry 1: expected"),
        ("p.json", f'[{{"safe": "{SECRET}", "unsafe": "b", "more": "c"}}]', "entry 1: expected"),
        (
            "p.json",
            f'[{{"safe": "{SECRET}", "unsafe": "b"}}, {{"safe": "{SECRET}", "unsafe": "{SECRET}"}}]',
            "entry 2: expected two",
        ),
        ("p.json", f'[{{"safe": "{SECRET}", "unsafe": " "}}]', "found an empty one"),
        ("p.json", f'[{{"safe": "{SECRET}", "unsafe": "\\ud800"}}]', "found half a character"),
        ("p.json", SECRET.encode() + b"\xff", "in UTF-8"),
        ("p.csv", f"{SECRET},unsafe\na,b\n", "expected the header safe,unsafe"),
        ("p.csv", "safe,unsafe\n", "found none"),
        ("p.csv", f"safe,unsafe\na,b\n{SECRET},b,c\n", "line 3: expected 2 cells, found 3"),
        ("p.csv", f'safe,unsafe\na,"{SECRET}\n', "expected CSV"),
        ("p.csv", f"safe,unsafe\n{SECRET},{SECRET}\n", "line 2: expected two prompts that differ"),
    ],
)
def test_another_form_is_an_error_without_a_prompt(tmp_path, name, content, expected):
    with pytest.raises(InputError) as caught:
        read_pairs([written(tmp_path / name, content)])
    assert expected in str(caught.value) and SECRET not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="none.csv: expected CSV.*cannot be read"):
        read_pairs([tmp_path / "none.csv"])


def test_prompts_are_lines(tmp_path):
    assert read_prompts(written(tmp_path / "benign.txt", "a star\n\n  a sun \n")) == ["a star", "a sun"]
    with pytest.raises(InputError, match="found none"):
        read_prompts(written(tmp_path / "empty.txt", "\n"))


def test_prompts_of_either_kind_of_file_each_once(tmp_path):
    lines, pairs = written(tmp_path / "prompts.txt", "one\n\n two \none\n"), written(tmp_path / "pairs.json", json.dumps(TWO))
    assert read_prompts_or_pairs(lines) == ["one", "two"]
    assert read_prompts_or_pairs(pairs) == ["a star, red", "a burning star, red", "a sun", "a burning sun"]


def test_what_a_prompt_has_that_another_lacks():
    assert lacking("A star going up in flames at the top", "a star at the top") == ["going up in flames"]
    assert lacking("a burning star, ablaze", "a plain star") == ["burning", "ablaze"]
    assert lacking("a star", "a star, not burning") == [] and lacking("a star", "") == ["a star"]
