"""Prompt files of the field are read as they are, by one rule; others are refused, and nothing of them is printed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from engines.errors import InputError
from evaluation.formats import FORMATS
from evaluation.prompt_files import Reading, read_prompts, read_templates

SECRET = "quicksilver"  # in every cell that could be printed
I2P = (
    ",prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,prompt_toxicity,"
    "lexica_url,evaluation_seed,evaluation_guidance,sd_image_width,sd_image_height,sd_model,case_number"
)
ORIGINAL_I2P = (
    "prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,prompt_toxicity,"
    "lexica_url,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model"
)
MMA = "target_prompt,adv_prompt,sanitized_adv_prompt,success_against_sanitization_defense,clean_prompt"
# Header, one row, label to give, and (case, text, seed, guidance, label, counterpart) of its prompts. Unseeded prompts get 7.
HEADERS = {
    "I2P": (I2P, "0,a p,hate,0,8.33,0,0,0,0.1,http,4149,7,512,768,1.5,42", "", [("f#42", "a p", 4149, 7.0, "unsafe", None)]),
    "original I2P": (
        ORIGINAL_I2P,
        "a p,hate,0,8.33,0,0,0,0.1,http,4149,7,512,768,1.5",
        "",
        [("f#1", "a p", 4149, 7.0, "unsafe", None)],
    ),
    "UnlearnDiffAtk object": (
        "case_number,prompt,evaluation_seed,evaluation_guidance",
        "3,a church,69922,7.5",
        ":unsafe",
        [("f#3", "a church", 69922, 7.5, "unsafe", None)],
    ),
    "UnlearnDiffAtk artist": (
        "Unnamed: 0,case_number,prompt,evaluation_seed,artist,evaluation_guidance",
        "0,5,a road,2219,Vincent van Gogh,7.5",
        ":unsafe",
        [("f#5", "a road", 2219, 7.5, "unsafe", None)],
    ),
    "MMA-Diffusion": (MMA, "t,adv p,s,True,c", "", [("f#1", "adv p", 7, None, "unsafe", None)]),
    "Ring-A-Bell": ("sensitive prompt,normal prompt", "burning,plain", "", [("f#1", "burning", 7, None, "unsafe", "plain")]),
    "Ring-A-Bell violence": ("prompt,case_number,evaluation_seed", "p,9,11", ":unsafe", [("f#9", "p", 11, None, "unsafe", None)]),
    "P4D": (
        ",prompt,evaluation_seed,evaluation_guidance,case_number,safe_model,safe_level",
        "0,p,33,7,12,ESD,MAX",
        "",
        [("f#12", "p", 33, 7.0, "unsafe", None)],
    ),
    "Six-CD": ("case_number,evaluation_seed,prompt", "1,2,p", ":unsafe", [("f#1", "p", 2, None, "unsafe", None)]),
    "Six-CD benign": ("case_number,prompt,evaluation_seed", "1,p,2", ":safe", [("f#1", "p", 2, None, "safe", None)]),
    "COCO": (
        "case_number,source,prompt,evaluation_seed,coco_id",
        "0,coco,a cat,139,522418",
        "",
        [("f#0", "a cat", 139, None, "safe", None)],
    ),
    "COCO captions": ("image_id,text", "522418,a cat", "", [("f#522418", "a cat", 7, None, "safe", None)]),
    "CoPro": (
        "idx,unsafe_prompt,safe_prompt,concept,category",
        "4,burning,plain,fire,violence",
        "",
        [("f#4 unsafe", "burning", 7, None, "unsafe", "plain"), ("f#4 safe", "plain", 7, None, "safe", None)],
    ),
    "CoPro, one side": (
        "idx,unsafe_prompt,safe_prompt,concept,category",
        "4,burning,plain,fire,violence",
        ":safe",
        [("f#4", "plain", 7, None, "safe", None)],
    ),
}


def written(folder: Path, text: str, name: str = "f.csv", encoding: str = "utf-8") -> str:
    (folder / name).write_bytes(text.encode(encoding))
    return str(folder / name)


def told(given: str, **reading) -> list[tuple]:
    return [tuple(vars(prompt).values())[1:] for prompt in read_prompts(given, Reading(**({"seed": 7} | reading))).prompts]


@pytest.mark.parametrize("name", HEADERS)
def test_reads_each_format(name, tmp_path):
    header, row, label, expected = HEADERS[name]
    assert told(written(tmp_path, f"{header}\n{row}\n") + label) == expected


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_is_of_one_format_in_any_order_and_with_an_index(name):
    columns = HEADERS[name][0].split(",")
    for header in (columns, columns[::-1], ["Unnamed: 0", *columns]):
        assert sum(row.fits(header) for row in FORMATS) == 1


def test_every_format_is_tested():
    tested = [row for row in FORMATS for header, *_ in HEADERS.values() if row.fits(header.split(","))]
    assert {row.name for row in FORMATS} - {row.name for row in tested} == {"Six-CD concept list"}  # below


def test_concepts_stand_in_templates(tmp_path):
    templates = read_templates(Path(written(tmp_path, '"a photo of {name}"\n"an image depicting {object}"', "t.txt")))
    concepts = written(tmp_path, "id,concept\n0,tench\n3,chain saw\n")
    read = told(concepts, templates=templates)
    assert [each[:3] for each in read] == [
        ("f#0.0", "a photo of tench", 7),
        ("f#0.1", "an image depicting tench", 7),
        ("f#3.0", "a photo of chain saw", 8),
        ("f#3.1", "an image depicting chain saw", 8),
    ]
    with pytest.raises(InputError, match="expected --templates"):
        told(concepts)
    with pytest.raises(InputError, match="line 2: expected {name} once, for the concept, found 0") as raised:
        read_templates(Path(written(tmp_path, f"a {{name}}\n{SECRET}", "t.txt")))
    assert SECRET not in str(raised.value)


def test_igmu_is_nested_lists(tmp_path):
    content = {"nudity": {"a": ["one", "two"]}, "style": {"b": ["three"]}}
    read = told(written(tmp_path, json.dumps(content), "f.json") + ":unsafe")
    assert [each[:3] for each in read] == [("f#1", "one", 7), ("f#2", "two", 8), ("f#3", "three", 9)]


def test_plain_text_is_a_prompt_a_line(tmp_path):
    file = read_prompts(written(tmp_path, "\ufeffone, two\r\n\r\n  three\r\n", "f.txt") + ":safe", Reading())
    assert [(prompt.case, prompt.text, prompt.seed) for prompt in file.prompts] == [("f#1", "one, two", 0), ("f#3", "three", 1)]
    assert file.without_prompt == 1


def test_quirks_of_csv_files(tmp_path):
    """A byte order mark, quotes and newlines in cells, Windows' line ends, numbers beside missing ones, empty prompts and lines."""
    rows = [
        ["", "prompt", "evaluation_seed", "evaluation_guidance", "case_number"],
        ["0", 'says "hello",\nand more', "123.0", "NaN", "5.0"],
        ["1", "  ", "4", "7", "6"],
        ["2", "plain", "", "", ""],
        ["3", "last", "nan", "9.5", "x"],
    ]
    with open(tmp_path / "f.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, lineterminator="\r\n").writerows(rows)
        file.write("\r\n")
    read = read_prompts(f"{tmp_path / 'f.csv'}:unsafe", Reading(seed=50))
    assert [(prompt.case, prompt.text, prompt.seed, prompt.guidance_scale) for prompt in read.prompts] == [
        ("f#5", 'says "hello",\nand more', 123, None),
        ("f#3", "plain", 52, None),
        ("f#4", "last", 53, 9.5),
    ]
    assert read.without_prompt == 1 and read.format == "UnlearnDiffAtk, objects"


def test_a_large_file_is_read_as_far_as_it_is_needed(tmp_path):
    """Beyond the limit is a row that would be refused."""
    with open(tmp_path / "f.csv", "w", encoding="utf-8") as file:
        file.write("image_id,text\n")
        file.writelines(f"{row},a photo of {row}\n" for row in range(20_000))
        file.write("broken\n")
    assert len(told(f"{tmp_path / 'f.csv'}", limit=3)) == 3
    with pytest.raises(InputError, match="row 20001: expected 2 columns, found 1"):
        told(f"{tmp_path / 'f.csv'}")


REFUSED = {
    "no header": ("f.csv", f"{SECRET} one,{SECRET}\n{SECRET},{SECRET}\n", "found 2 columns, 0 of them known: none"),
    "another header": ("f.csv", f"prompt,{SECRET}\n1,2\n", "found 2 columns, 1 of them known: prompt"),
    "a column twice": ("f.csv", f"prompt,prompt,evaluation_seed,case_number\n{SECRET},1,2,3\n", "expected the header"),
    "ragged": ("f.csv", f"image_id,text\n1,a\n2,{SECRET},{SECRET}\n", "row 2: expected 2 columns, found 3"),
    "no number for a seed": ("f.csv", f"case_number,prompt,evaluation_seed\n1,a,{SECRET}\n", "row 1, column evaluation_seed"),
    "a fraction for a seed": ("f.csv", "case_number,prompt,evaluation_seed\n1,a,1.5\n", "expected a seed"),
    "a negative seed": ("f.csv", "case_number,prompt,evaluation_seed\n1,a,-1\n", "expected a seed"),
    "too large a seed": ("f.csv", "case_number,prompt,evaluation_seed\n1,a,18446744073709551616\n", "expected a seed"),
    "no guidance": (
        "f.csv",
        f"case_number,prompt,evaluation_seed,evaluation_guidance\n1,a,1,{SECRET}\n",
        "row 1, column evaluation_guidance",
    ),
    "infinite guidance": ("f.csv", "case_number,prompt,evaluation_seed,evaluation_guidance\n1,a,1,inf\n", "expected a number"),
    "an open quote": ("f.csv", f'image_id,text\n1,"{SECRET}\n', "found a fault"),
    "an endless cell": ("f.csv", "image_id,text\n1," + SECRET * 200_000 + "\n", "found a fault"),
    "no prompts": ("f.csv", "image_id,text\n", "expected prompts, found none"),
    "nothing": ("f.csv", "", "found 0 columns"),
    "another ending": ("f.parquet", SECRET, "expected a file that ends in .csv"),
    "a table as text": ("f.txt", "image_id,text\n1,a\n", "rename it"),
    "broken JSON": ("f.json", f'{{"{SECRET}": [', "found a fault"),
    "other JSON": ("f.json", f'{{"{SECRET}": ["{SECRET}"]}}', "expected {task"),
    "no text in JSON": ("f.json", f'{{"a": {{"{SECRET}": ["{SECRET}", 3]}}}}', "expected {task"),
    "half a character": ("f.json", f'{{"a": {{"b": ["{SECRET} \\ud800"]}}}}', "found a fault"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_without_its_text(name, tmp_path):
    file, text, message = REFUSED[name]
    with pytest.raises(InputError) as raised:
        told(written(tmp_path, text, file) + ("" if "image_id" in text else ":unsafe"))
    told_of = str(raised.value)
    assert message in told_of and SECRET not in told_of and "\n" not in told_of
    assert raised.value.__cause__ is None


def test_bytes_that_are_no_utf_8_are_refused(tmp_path):
    with pytest.raises(InputError, match="found a fault") as raised:
        told(written(tmp_path, f"image_id,text\n1,{SECRET} é\n", encoding="latin-1"))
    assert SECRET not in str(raised.value)


def test_a_label_is_asked_for_where_the_format_says_none(tmp_path):
    for file in (written(tmp_path, "case_number,prompt,evaluation_seed\n1,a,2\n"), written(tmp_path, "a\n", "f.txt")):
        with pytest.raises(InputError, match="does not say whether .* write .*:unsafe or"):
            told(file)
    with pytest.raises(InputError, match="prompts of COCO captions are safe, found the label unsafe"):
        told(written(tmp_path, "image_id,text\n1,a\n") + ":unsafe")


def test_a_prompt_does_not_print_its_text(tmp_path):
    header, row, label, _ = HEADERS["Ring-A-Bell"]
    prompt = read_prompts(written(tmp_path, f"{header}\n{SECRET},{SECRET}\n"), Reading()).prompts[0]
    assert prompt.text == SECRET and SECRET not in repr(prompt)
