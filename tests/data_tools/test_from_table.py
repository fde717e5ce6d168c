"""Tables to shards: every format, every type, and nothing lost without a word."""

import csv
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmcl.cli import main
from mmcl.data import read_rows
from mmcl.errors import MmclError

HEADER = ["id", "image", "caption", "width", "code"]
ROWS = [
    ["a1", "img/1.jpg", "a cat,\nasleep", "256", "007"],
    ["a2", "img/2.PNG", 'the "猫"', "64", "8"],
    ["a3", "img/none.jpg", "lost", "", "9"],
    ["a4", "", "", "0.5", "10"],
]


@pytest.fixture
def build(tool: Callable[[str], SimpleNamespace]) -> Callable[..., None]:
    return tool("from_table").build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "1.jpg").write_bytes(b"one")
    (tmp_path / "img" / "2.PNG").write_bytes(b"two")
    return tmp_path


def write(path: Path, rows: list[list[str]] = ROWS, header: list[str] = HEADER) -> Path:
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
        return path
    number = {"": None}
    records = [
        {
            k: (json.loads(v) if v else None) if k == "width" else number.get(v, v)
            for k, v in zip(header, row, strict=True)
        }
        for row in rows
    ]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=2)
    else:
        path.write_text("".join(f"{json.dumps(r, ensure_ascii=False)}\n" for r in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_files_texts_and_all_others_become_members(
    suffix: str, folder: Path, build: Callable[..., None], written: Callable[..., Any]
) -> None:
    table = write(folder / f"t{suffix}")
    build(folder / "out", str(table), files=["image"], text=["caption"], key="id")
    samples, counts, bad = written(folder / "out")
    assert {key: set(members) for key, members in samples.items()} == {
        "a1": {"jpg", "txt", "json"},
        "a2": {"png", "txt", "json"},
        "a3": {"txt", "json"},
        "a4": {"json"},
    }
    assert (samples["a1"]["jpg"], samples["a2"]["png"]) == (b"one", b"two")
    assert samples["a1"]["txt"].decode() == "a cat,\nasleep"
    assert samples["a2"]["txt"].decode() == 'the "猫"'
    others = [json.loads(samples[key]["json"]) for key in ("a1", "a2", "a3", "a4")]
    assert [row["code"] for row in others] == ["007", "8", "9", "10"]  # one name makes a column of names
    width = [row["width"] for row in others]
    assert width == [256, 64, None, 0.5]
    assert counts == {"no such file or directory": 1, "no path": 1, "no text": 1}
    assert [(b["key"], b["column"], b["reason"]) for b in bad] == [
        ("a3", "image", "no such file or directory"),
        ("a4", "image", "no path"),
        ("a4", "caption", "no text"),
    ]
    assert bad[0]["file"] == str(folder / "img/none.jpg")


def test_incomplete_rows_are_left_out_when_told_and_counted(
    folder: Path, build: Callable[..., None], written: Callable[..., Any]
) -> None:
    table = write(folder / "t.csv")
    build(folder / "out", str(table), files=["image"], text=["caption"], incomplete="skip")
    samples, counts, _ = written(folder / "out")
    assert list(samples) == ["000000000", "000000001"]
    assert counts["rows left out"] == 2


def test_members_may_have_names_of_their_own_and_a_column_may_be_key_and_file(
    folder: Path, build: Callable[..., None], written: Callable[..., Any]
) -> None:
    (folder / "a").write_bytes(b"x")
    table = write(folder / "t.csv", [["a", "img/1.jpg", "img/1.jpg", "words"]], ["id", "one", "two", "fr"])
    options = {"text": ["caption=fr"], "key": "id"}
    with pytest.raises(MmclError, match="'two' would be called 'jpg', which is taken.*--files depth.png=two"):
        build(folder / "no", str(table), files=["one", "two"], **options)
    with pytest.raises(MmclError, match="'id' would be called '', which is no name"):
        build(folder / "no", str(table), files=["id"], **options)
    build(folder / "out", str(table), files=["one", "depth.jpg=two", "bin=id"], **options)
    assert written(folder / "out")[0] == {"a": {"jpg": b"one", "depth.jpg": b"one", "bin": b"x", "caption": b"words"}}


def test_parquet_keeps_its_types_and_brings_bytes(
    folder: Path, build: Callable[..., None], written: Callable[..., Any]
) -> None:
    record = {
        "image": b"picture", "when": datetime.date(2020, 1, 2), "score": float("nan"), "tags": ["a", "b"],
        "size": {"width": 3}, "yes": True, "none": None,
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([record]), folder / "t.parquet")
    with pytest.raises(MmclError, match="the column 'image' holds bytes.*--files jpg=image"):
        build(folder / "no", str(folder / "t.parquet"))
    build(folder / "out", str(folder / "t.parquet"), files=["jpg=image"])
    sample = written(folder / "out")[0]["000000000"]
    assert sample["jpg"] == b"picture"
    assert json.loads(sample["json"]) == {
        "when": "2020-01-02", "score": None, "tags": ["a", "b"], "size": {"width": 3}, "yes": True, "none": None,
    }  # fmt: skip


def test_several_tables_are_one_data_set_and_root_is_where_paths_start(
    folder: Path, build: Callable[..., None], written: Callable[..., Any], tmp_path: Path
) -> None:
    (folder / "tables").mkdir()
    for i in range(2):
        write(folder / "tables" / f"{i}.csv", ROWS[:2])
    build(folder / "out", str(folder / "tables" / "{0..1}.csv"), files=["image"], root=folder)
    samples, counts, _ = written(folder / "out")
    assert list(samples) == [f"{i:09d}" for i in range(4)]
    assert counts == {}


def test_a_wrong_root_is_told_early(folder: Path, build: Callable[..., None]) -> None:
    for rows, tried in ((1001, 1000), (3, 3)):
        table = write(folder / "t.csv", [[str(i), f"{i}.jpg", "x", "1", "1"] for i in range(rows)])
        told = rf"none of the first {tried} files is there; the last was .*{tried - 1}.jpg.*--root"
        with pytest.raises(MmclError, match=told):
            build(folder / f"out{rows}", str(table), files=["image"])


def test_a_blank_caption_is_none(folder: Path, build: Callable[..., None], written: Callable[..., Any]) -> None:
    table = folder / "t.csv"
    table.write_text("name,caption\na,fine\nb,  \n")
    build(folder / "out", str(table), text=["caption"], key="name")
    samples, counts, _ = written(folder / "out")
    assert [list(sample) for sample in samples.values()] == [["txt"]]
    assert counts == {"no text": 1, "rows left out": 1}


@pytest.mark.parametrize(
    ("content", "name", "options", "told"),
    [
        ("a,b\n1,2\n", "t.csv", {"files": ["aa"]}, "the table has no column 'aa'.*Its first row has: a, b"),
        ("a,a\n1,2\n", "t.csv", {}, "the column 'a' is there twice"),
        ("a,b\n1,2\n3\n", "t.csv", {}, "t.csv cannot be read: .*Expected 2 columns, got 1"),
        ("", "t.csv", {}, "t.csv cannot be read: Empty CSV file"),
        ("a\n", "t.csv", {}, "there are no samples to write"),
        ('{"a": 1}\n{"a"\n', "t.jsonl", {}, "t.jsonl, line 2: no JSON"),
        ("[1]\n", "t.jsonl", {}, "t.jsonl, line 1: a list, not an object"),
        ("x", "t.parquet", {}, "t.parquet cannot be read"),
        ("x", "t.xls", {}, "a table is a .csv, .tsv"),
        ("a,b\n1,2\n", "t.csv", {"key": "b", "text": ["a"]}, None),
        ("a,b\nv1.jpg,2\n", "t.csv", {"key": "a"}, "its key 'v1.jpg' has a dot"),
        ("a,b\nx,1\nx,2\n", "t.csv", {"key": "a"}, "sample 'x' comes twice"),
        ('{"t": ["a"]}\n', "t.jsonl", {"text": ["t"]}, "row 0: 't' holds a list, not a text"),
    ],
)
def test_mistakes_are_told(
    content: str, name: str, options: dict[str, Any], told: str | None, tmp_path: Path, build: Callable[..., None]
) -> None:
    (tmp_path / name).write_text(content)
    if told is None:
        build(tmp_path / "out", str(tmp_path / name), **options)
        return
    with pytest.raises(MmclError, match=told):
        build(tmp_path / "out", str(tmp_path / name), **options)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_column_is_numbers_when_all_its_cells_are_however_far_down(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    lines = [f"{i},{i},{i / 4},{'x' * 100}" for i in range(30_000)]  # several blocks of the reader
    path.write_text("\n".join(["a,b,c,d", *lines, "1,word,2,x"]))
    rows = list(read_rows(path))
    assert len(rows) == 30_001
    assert (rows[5]["a"], rows[5]["b"], rows[5]["c"]) == (5, "5", 1.25)
    assert rows[-1] == {"a": 1, "b": "word", "c": 2, "d": "x"}


def test_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write(folder / "t.csv")
    words = ["data", "build", "from_table", str(table), "--out", str(folder / "out"), "--files", "image"]
    words += ["--text", "caption", "--samples-per-shard", "3"]
    main(words)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "1  no such file or directory" in printed.err
    assert "4  samples in" in printed.err
    assert len(list((folder / "out").glob("*.tar"))) == 2
    main(words)
    assert "is finished already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words[:-1], "4"])
    assert "out was made otherwise: samples_per_shard was 3 and is 4. Build into" in capsys.readouterr().err
