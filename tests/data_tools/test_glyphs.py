"""The glyphs data set: what the issue's figures are measured on, so it must not drift."""

import hashlib
import io
import itertools
import sys
import time
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcl import bundled
from mmcl.data import write_shards
from mmcl.errors import MmclError

TESTED = (bundled.shelf("data_tools") / "glyphs_test.txt").read_text()


@pytest.fixture(scope="module")
def test_set(script: SimpleNamespace) -> list[dict[str, Any]]:
    return list(script.test_samples())


def test_the_characters_and_their_styles_are_all_there(script: SimpleNamespace) -> None:
    table = script.characters()
    assert (len(table), sum(map(len, table.values()))) == (7346, 54534)  # 7,407 with a name, of which 61 are blank


def test_the_test_characters_are_fixed_and_chosen_by_hash_alone(script: SimpleNamespace) -> None:
    assert hashlib.sha256(TESTED.encode()).hexdigest()[:16] == "fcebcb3fbf698401"
    assert script.choose_test() == TESTED.splitlines()
    assert len(TESTED.splitlines()) == 500


@pytest.mark.slow
def test_no_test_character_and_no_name_of_one_is_in_the_training_set(script: SimpleNamespace) -> None:
    names = {line.split(" ", 1)[1].lower() for line in TESTED.splitlines()}
    seen: set[str] = set()
    for sample in script.train_samples():
        seen.add(sample["json"]["name"])
    assert len(seen) == 6846
    assert seen.isdisjoint(names)


def test_a_sample_is_a_readable_picture_with_a_caption_of_its_name(test_set: list[dict[str, Any]]) -> None:
    assert len({sample["__key__"] for sample in test_set}) == 500
    for sample in test_set:
        picture = np.asarray(Image.open(io.BytesIO(sample["png"])))
        assert picture.min() < 128 < picture.max()
        assert sample["txt"] == unicodedata.name(sample["json"]["character"]).lower()


def test_no_two_test_pictures_are_equal(test_set: list[dict[str, Any]]) -> None:
    assert len({np.asarray(Image.open(io.BytesIO(s["png"]))).tobytes() for s in test_set}) == 500


def test_twins_share_an_identity(script: SimpleNamespace) -> None:
    identities = script.identities()
    assert identities["A"] == identities["\N{GREEK CAPITAL LETTER ALPHA}"]
    assert identities["A"] != identities["B"]


def test_styles_shifts_and_templates_vary_and_are_repeatable(script: SimpleNamespace) -> None:
    once, again = ([*itertools.islice(script.train_samples(), 300)] for _ in range(2))
    assert [s["png"] for s in once] == [s["png"] for s in again]
    assert [s["txt"] for s in once] == [s["txt"] for s in again]
    assert len({s["json"]["style"] for s in once}) > 10
    assert any(s["txt"] != s["json"]["name"] for s in once)


class TestSpeech:
    """On few characters, spoken by real processes."""

    @pytest.fixture
    def few(self, script: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """24 training samples, and two for testing; portions of 10."""
        monkeypatch.syspath_prepend(str(bundled.shelf("data_tools")))
        import _speech

        monkeypatch.setattr(_speech, "PORTION", 10)
        return [*itertools.islice(script.train_samples(), 24), *itertools.islice(script.test_samples(), 2)]

    @staticmethod
    def spoken(script: SimpleNamespace, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return list(script.with_speech({**sample, "json": {**sample["json"]}} for sample in samples))

    def test_some_samples_say_their_name_and_nothing_else_changes(
        self, script: SimpleNamespace, few: list[dict[str, Any]]
    ) -> None:
        import soundfile

        made = self.spoken(script, few)
        assert [s["__key__"] for s in made] == [s["__key__"] for s in few]
        for old, new in zip(few, made, strict=True):
            copy = old["__key__"].partition("-")[2]
            assert ("mp3" in new) == (copy in ("", "0", "1", "2"))
            assert {**old["json"], "voice": new["json"]["voice"]} == new["json"] if "mp3" in new else old == new
        said = [s for s in made if "mp3" in s]
        assert 2 < len(said) < len(made)
        assert [s["json"]["voice"] for s in made[-2:]] == ["en-us", "en-us"]
        assert len({s["json"]["voice"] for s in said}) > 3
        for sample in said:
            sound, rate = soundfile.read(io.BytesIO(sample["mp3"]), dtype="float32")
            assert (rate, sound.ndim) == (16_000, 1)
            assert 0.03 * len(sample["json"]["name"]) < len(sound) / rate < 0.15 * len(sample["json"]["name"]) + 1
            assert 0.03 < np.sqrt((sound**2).mean()) < 0.5

    def test_it_is_equal_every_time_whatever_ran_before_and_beside(
        self, script: SimpleNamespace, few: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        once = self.spoken(script, few)
        time.sleep(1.1)  # espeak-ng seeds itself with the seconds of the clock
        monkeypatch.setattr("os.cpu_count", lambda: 1)
        assert self.spoken(script, few) == once

    def test_other_words_and_voices_sound_otherwise(self, few: list[dict[str, Any]]) -> None:
        from _speech import VOICES, Utterance, record

        lines = [Utterance("alpha", voice) for voice in VOICES] + [Utterance("beta"), Utterance("alpha", speed=90)]
        made = record(lines)
        assert len(set(made)) == len(lines) == 114
        assert len(made[-1]) > 1.3 * len(made[0])

    def test_what_cannot_be_said_is_told(self, few: list[dict[str, Any]]) -> None:
        from _speech import Utterance, record

        with pytest.raises(MmclError, match=r"espeak-ng failed: .*Utterance\(text='', .* gives no sound"):
            record([Utterance("alpha"), Utterance("")])
        with pytest.raises(MmclError, match=r"espeak-ng failed: .*no voice 'martian'"):
            record([Utterance("alpha", "martian")])

    def test_what_is_built_with_and_without_speech_is_not_mixed(
        self, script: SimpleNamespace, few: list[dict[str, Any]], tmp_path: Path
    ) -> None:
        write_shards(self.spoken(script, few), tmp_path / "with" / "train")
        with pytest.raises(MmclError, match=r"with/train was built with speech; remove it, or build elsewhere"):
            script.build(tmp_path / "with")
        write_shards(few, tmp_path / "out" / "train")
        with pytest.raises(MmclError, match=r"out/train was built without speech"):
            script.build(tmp_path / "out", speech=True)


def test_a_missing_package_is_told(script: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(bundled.shelf("data_tools")))
    monkeypatch.delitem(sys.modules, "_speech", raising=False)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(MmclError, match=r"speech needs the package soxr: pip install soxr, or 'mmcl\[demo\]'\."):
        script.build(tmp_path / "out", speech=True)
    assert not (tmp_path / "out").exists()


def test_the_digits_are_all_there() -> None:
    import runpy

    made = runpy.run_path(str(bundled.shelf("data_tools") / "mnist5k.py"))
    samples = list(made["test_samples"]())
    assert len(samples) == 5000
    assert {s["json"]["digit"] for s in samples} == set(made["DIGITS"])
    corner = np.asarray(Image.open(io.BytesIO(samples[0]["png"])))[0, 0]
    assert corner == 255  # ink on paper, as the glyphs are
