"""The commands, in this process: what they print, and one clear message and exit code 2 for a mistake."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mmcl import bundled, workflow
from mmcl.cli import main
from mmcl.data import read_samples
from mmcl.recipe import Recipe, dump_yaml


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Recipe]) -> Path:
    return workflow.train(tiny(tmp_path_factory.mktemp("cli") / "run"))


@pytest.fixture
def recipe(tmp_path: Path, tiny: Callable[..., Recipe]) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml(tiny(tmp_path / "run").model_dump(mode="json")))
    return path


def fails(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a mistake prints: to standard error, without a traceback, with exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


def test_help_is_instant_and_lists_the_commands() -> None:
    subprocess.run([sys.executable, "-m", "mmcl", "--version"], check=True, capture_output=True)  # bytecode is written
    before = time.perf_counter()
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "mmcl", "--help"], capture_output=True, text=True)
    assert time.perf_counter() - before < 5
    for command in ("train", "eval", "embed", "objectives", "towers", "recipes", "tasks", "data"):
        assert command in done.stdout
    for heavy in ("torch", "numpy", "open_clip", "pydantic"):
        assert not any(line.split("|")[-1].strip() == heavy for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    "command",
    [["train"], ["eval"], ["embed"], ["objectives"], ["towers"], ["recipes"], ["tasks"], ["data"], ["data", "build"]],
)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*command, "--help"])
    assert "Usage: mmcl" in capsys.readouterr().out


def test_train_prints_the_results_and_where_to_look(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", str(recipe), "training.samples=96"])
    printed = capsys.readouterr()
    assert json.loads(printed.out)["train"]["samples"] == 96
    assert "report.html" in printed.err
    assert "step 3/3" in printed.err


def test_eval_prints_a_table_or_json(
    run: Path, tmp_path: Path, glyphs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "mine.yaml"
    task.write_text(
        "title: mine\nevaluator: {name: retrieval, modalities: [text, image]}\n"
        f"data: {{shards: '{glyphs.test}', modalities: {{image: png, text: txt}}}}\n"
    )
    main(["eval", str(run), "--on", str(task), "--json"])
    measured = json.loads(capsys.readouterr().out)[str(task)]
    assert measured["n"] == 500
    main(["eval", str(run), "--on", str(task)])
    assert "text_to_image/recall@10" in capsys.readouterr().out


def test_embed_writes_once_and_never_over_something_else(
    run: Path, tmp_path: Path, glyphs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["embed", str(run), "--shards", str(glyphs.test), "--out", str(out)]
    main(words)
    assert "500 samples, image, text, 16 numbers each; 0 bad" in capsys.readouterr().err
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["opened"] == {"model": str(run.absolute()), "weights": None}
    assert manifest["recipe"]["dim"] == 16
    main(words)
    assert "(it was finished before)" in capsys.readouterr().err
    said = fails(capsys, *words, "--dims", "8")
    assert "holds a finished export of something else: dim (16 before, 8 now)" in said
    assert "warning: no term of the recipe is matryoshka" in said
    assert "say which of how many, as in 0/8 to 7/8" in fails(capsys, *words, "--parts", "one")


def test_embed_says_where_much_is_bad(
    run: Path, tmp_path: Path, glyphs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["embed", str(run), "--shards", str(glyphs.test), "--modalities", "image=jpg;png,text=json:nothing"]
    main([*words, "--out", str(tmp_path / "out"), "--parts", "0/1", "--dtype", "fp16", "--layout", "parquet"])
    said = capsys.readouterr().err
    assert "500 bad" in said
    assert "warning: text: 500 of 500 samples have no vector; the first one: no text in JSON field 'nothing'" in said
    assert [path.name for path in (tmp_path / "out" / "embeddings").iterdir()] == ["part_0000.parquet"]


def test_whoever_makes_the_last_part_quantises(
    run: Path, tmp_path: Path, glyphs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "out", ["embed", str(run), "--shards", str(glyphs.test), "--part-size", "300"]
    words += ["--out", str(out), "--quantize", "int8"]
    main([*words, "--parts", "1/2"])
    said = capsys.readouterr().err
    assert "1 part of other jobs are left" in said
    assert "--quantize is done by the command that makes the last part" in said
    assert not (out / "quantized").exists()
    main([*words, "--parts", "0/2"])
    assert "int8 of image: recall@10" in capsys.readouterr().err
    assert set(json.loads((out / "manifest.json").read_text())["quantized"]) == {"int8"}


def test_recipes_are_listed_shown_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes"])
    assert "glyphs/clip_tiny" in capsys.readouterr().out
    main(["recipes", "show", "glyphs/clip_tiny"])
    shown = capsys.readouterr().out
    main(["recipes", "copy", "glyphs/clip_tiny", str(tmp_path)])
    assert (tmp_path / "clip_tiny.yaml").read_text() == shown
    capsys.readouterr()
    assert "is there already" in fails(capsys, "recipes", "copy", "glyphs/clip_tiny", tmp_path)


def test_objectives_are_listed_and_shown_as_lines_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    from mmcl.losses import presets

    main(["objectives"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(presets())
    assert all(40 < len(line) < 130 and "http" not in line for line in lines)
    for name, terms in presets().items():
        main(["objectives", "show", name])
        shown = capsys.readouterr().out
        assert shown.startswith("# ")
        assert "https://" in shown.split("objective:")[0] or name in ("gram_volume", "cuaxu", "clip_uniform")
        assert YAML(typ="safe", pure=True).load(shown) == {"objective": terms}
    assert "no objective is called 'clop'; did you mean 'clip'?" in fails(capsys, "objectives", "show", "clop")


def test_towers_are_listed_and_shown_with_every_key_and_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    from mmcl.towers import HEADS, POLICIES, TOWERS, TowerSpec

    main(["towers"])
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines]
    assert listed == ["towers:", *sorted(TOWERS.classes), "head:", *sorted(HEADS.classes), "policy:",
                      *sorted(POLICIES.classes)]  # fmt: skip
    assert all(len(line) < 130 for line in lines)
    assert re.search(r"^  vector +vector +Ready vectors", "\n".join(lines), re.MULTILINE)
    assert re.search(r"^  mlp +hidden, dropout, bias +A perceptron", "\n".join(lines), re.MULTILINE)
    for name in (name for name, cls in TOWERS.classes.items() if cls.__module__.startswith("mmcl.")):
        main(["towers", "show", name])
        about, own, common = re.split(r"^Keys of .*:$", capsys.readouterr().out, flags=re.MULTILINE)
        assert "Use when:" in about
        assert "Args:" not in about
        keys = set(TOWERS.spec_of(name).model_fields) - set(TowerSpec.model_fields)
        assert set(re.findall(r"^  (\w+)(?: \(needed\)| \[.*?\])?: \w", own, re.MULTILINE)) == keys
        assert set(re.findall(r"^  (\w+).*?: [A-Z]", common, re.MULTILINE)) == set(TowerSpec.model_fields) - {"name"}
    main(["towers", "show", "vector"])
    shown = capsys.readouterr().out
    assert "width (needed): numbers of a vector." in shown
    assert "normalize [false]: " in shown
    for name, keys in (("mlp", {"hidden", "dropout", "bias"}), ("frozen", set[str]())):
        main(["towers", "show", name])
        about, own = re.split(r"^Keys of .*:", capsys.readouterr().out, flags=re.MULTILINE)
        assert "Use when:" in about
        assert set(re.findall(r"^  (\w+)(?: \[.*?\])?: \w", own, re.MULTILINE)) == keys
    assert "no tower is called 'vectr'; did you mean 'vector'?" in fails(capsys, "towers", "show", "vectr")


def test_tasks_and_data_sets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tasks"])
    assert "glyphs/retrieval" in capsys.readouterr().out
    main(["data", "list"])
    assert "mnist5k" in capsys.readouterr().out


def test_a_data_set_of_ones_own_is_built_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "three.py"
    script.write_text(
        "from mmcl.data import write_shards\n"
        "def build(out):\n"
        "    write_shards(({'__key__': str(i), 'txt': f'caption {i}'} for i in range(3)), out)\n"
    )
    main(["data", "build", str(script), "--out", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["samples"] == 3
    main(["data", "build", str(script), "--out", str(tmp_path / "out")])
    assert "is finished already" in capsys.readouterr().err


def test_a_data_set_has_the_options_of_its_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "some.py"
    script.write_text(
        "from mmcl.data import write_shards\n"
        "def build(out, word: str, *, number: int = 3, upper: bool = False):\n"
        '    """Write a word often.\n\n'
        "    Args:\n        out: folder to make.\n        word: what to write.\n        number: how often.\n"
        '        upper: in capitals.\n    """\n'
        "    word = word.upper() if upper else word\n"
        "    write_shards(({'__key__': str(i), 'txt': word} for i in range(number)), out)\n"
    )
    main(["data", "build", str(script), "--help"])
    shown = capsys.readouterr().out
    for part in ("Write a word often", "WORD --word", "how often. [default: 3]", "--upper", "--out"):
        assert part in shown
    main(["data", "build", str(script), "hey", "--number", "2", "--upper", "--out", str(tmp_path / "out")])
    assert [sample["txt"] for sample in read_samples(tmp_path / "out")] == [b"HEY", b"HEY"]
    assert "2  samples in" in capsys.readouterr().err
    mistakes = {
        "hey --out NO --numbr 3": "Did you mean --number?",
        "hey --out NO --number x": 'unable to convert "x" into int',
        "--out NO": "--word",
        "hey": "--out",
        "hey you --out NO": "you",
    }
    for words, told in mistakes.items():
        assert told in fails(capsys, "data", "build", script, *words.replace("NO", str(tmp_path / "no")).split())
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", ["from_folder", "from_table", "reshard"])
def test_a_data_tool_explains_each_of_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    import inspect
    import runpy

    build = runpy.run_path(str(bundled.shelf("data_tools") / f"{name}.py"))["build"]
    main(["data", "build", name, "--help"])
    shown = capsys.readouterr().out
    for option in inspect.signature(build).parameters:
        assert f"--{option.replace('_', '-')}" in shown
        assert f"        {option}: " in build.__doc__


def test_a_data_set_that_needs_a_package_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "late.py"
    script.write_text("def build(out):\n    import nowhere_to_be_found\n")
    assert "needs the package nowhere_to_be_found: pip install" in fails(capsys, "data", "build", script, "--out", "x")


def test_a_tokenizer_is_trained_on_the_captions_of_shards(
    tmp_path: Path, glyphs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.model"
    main(["data", "train-tokenizer", str(glyphs.test), "--out", str(out), "--vocab-size", "400"])
    assert capsys.readouterr().out.strip() == str(out)
    from mmcl.towers import SentencePiece

    assert SentencePiece(out).vocab_size == 400


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.train.shards=nowhere/{000..003}.tar"], "4 of 4 shards of .* are missing: nowhere/000.tar"),
        (["data.train.shards=nowhere/*.tar"], "no shards match 'nowhere/\\*.tar'"),
        (["optimizer.lrr=1", "trainin.samples=1"], "optimizer.lrr: .*did you mean 'lr'(.|\n)*trainin: .*'training'"),
        (["data.train.modalities={image: png, text: flac.mp7}"], "'flac.mp7' does not say where a modality lies"),
        (["data.train.modalities.image=jpg"], r"no sample of .* has image \(jpg\); their members are: json, png, txt"),
        (["tasks=[glyphs/retrieva]"], "no task is called 'glyphs/retrieva'; did you mean 'glyphs/retrieval'"),
        (["towers.text.tokenizer.model=nowhere.model"], "there is no file 'nowhere.model'"),
        (["training.processes=4"], "training.processes asks for 4, but this run has 1"),
    ],
)
def test_a_mistake_in_training_is_one_clear_message_and_leaves_nothing(
    recipe: Path, overrides: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert re.search(told, fails(capsys, "train", recipe, *overrides))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "glyphs/clip_tinny"], "did you mean 'glyphs/clip_tiny'"),
        (["eval", "nowhere", "--on", "glyphs/retrieval"], "nowhere is no run folder"),
        (["data", "build", "glyfs", "--out", "x"], "no data set is called 'glyfs'; did you mean 'glyphs'"),
        (["embed", "nowhere", "--shards", "x", "--out", "y"], "nowhere is no run folder"),
        (["trian"], "Did you mean"),
        (["train"], "requires an argument"),
        (["eval", "x"], "--on"),
        (["train", "glyphs/clip_tiny", "--resum"], "--resum"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in fails(capsys, *words)


def test_debug_shows_the_traceback() -> None:
    from mmcl.errors import MmclError

    with pytest.raises(MmclError):
        main(["train", "nothing", "--debug"])


@pytest.mark.slow
def test_on_a_terminal_there_is_one_progress_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a real pseudo-terminal, a progress bar with the loss; no plain lines."""
    import os
    import pty
    import subprocess

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mmcl", "train", str(recipe)], stderr=theirs, stdout=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    text = seen.decode()
    assert "8/8" in text
    assert "samples/s" in text
    assert "step 8/8" not in text
