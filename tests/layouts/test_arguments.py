"""What the arguments of layouts do."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mmcl.data import read_samples
from mmcl.errors import MmclError
from mmcl.layouts import LAYOUTS, packed
from tests.layouts.captions import karpathy
from tests.layouts.files import put, table
from tests.layouts.miniatures import MINIATURES
from tests.layouts.others import valse


def samples(root: Path, layout: str, **args: Any) -> list[dict[str, Any]]:
    return list(LAYOUTS.check({"name": layout, **args}).build().samples(root))


def keys(root: Path, layout: str, **args: Any) -> list[str]:
    return [sample["__key__"] for sample in samples(root, layout, **args)]


def test_folds(tmp_path: Path) -> None:
    MINIATURES["esc50"](tmp_path)
    MINIATURES["urbansound8k"](tmp_path)
    assert keys(tmp_path, "esc50", folds=[5]) == ["5-9032-A-0"]
    assert keys(tmp_path, "urbansound8k", folds=[10]) == ["100263-2-0-117"]
    with pytest.raises(MmclError, match=r"the annotations \(esc50.csv\) name no sample"):
        samples(tmp_path, "esc50", folds=[4])


def test_splits(tmp_path: Path) -> None:
    mini = karpathy(tmp_path)
    put(tmp_path, "coco/val2014/COCO_val2014_000000184613.jpg", b"x")
    assert keys(tmp_path, "karpathy", **mini.args, split="val") == ["COCO_val2014_000000184613"]
    with pytest.raises(MmclError, match="name no sample"):
        samples(tmp_path, "karpathy", **mini.args, split="train")
    table(tmp_path, "FSD50K.ground_truth/dev.csv", ["fname", "labels", "mids", "split"], ["1", "A", "/m/1", "train"])
    put(tmp_path, "FSD50K.dev_audio/1.wav", b"x")
    assert keys(tmp_path, "fsd50k", split="train") == ["1"]
    MINIATURES["vggsound"](tmp_path)
    put(tmp_path, "audio/--0PQM4-hqg_000030.wav", b"x")
    assert keys(tmp_path, "vggsound", split="train") == ["Y--0PQM4-hqg_30"]


def test_flickr30k_has_no_folders(tmp_path: Path) -> None:
    sentences = [{"raw": f"{i}", "tokens": []} for i in range(5)]
    put(tmp_path, "f.json", {"images": [{"filename": "1.jpg", "split": "test", "sentences": sentences}]})
    put(tmp_path, "flickr30k-images/1.jpg", b"x")
    (one,) = samples(tmp_path, "karpathy", annotations="f.json", images="flickr30k-images")
    assert one["json"]["captions"] == list("01234")


def test_counts_of_captions(tmp_path: Path) -> None:
    mini = karpathy(tmp_path)
    every = samples(tmp_path, "karpathy", **mini.args, captions=None)
    assert [len(sample["json"]["captions"]) for sample in every] == [5, 7]
    with pytest.raises(MmclError, match=r"COCO_val2014_000000391895\.jpg has 5 captions, where 6 are asked for"):
        samples(tmp_path, "karpathy", **mini.args, captions=6)
    MINIATURES["crossmodal3600"](tmp_path)
    assert [one["json"]["captions"] for one in samples(tmp_path, "crossmodal3600", language="quz", captions=1)] == [
        ["q0"],
        ["q1"],
    ]
    with pytest.raises(MmclError, match="there is no 'qu'; did you mean 'quz'"):
        samples(tmp_path, "crossmodal3600", language="qu")


def test_languages(tmp_path: Path) -> None:
    MINIATURES["xtd10"](tmp_path)
    assert [sample["txt"] for sample in samples(tmp_path, "xtd10", language="it")] == ["uno", "due"]
    with pytest.raises(MmclError, match=r"there is no XTD10/test_1kcaptions_ko\.txt or MIC/"):
        samples(tmp_path, "xtd10", language="ko")
    put(tmp_path, "XTD10/test_1kcaptions_it.txt", "uno\n")
    with pytest.raises(MmclError, match=r"2 names of pictures, and 1 lines in XTD10/test_1kcaptions_it\.txt"):
        samples(tmp_path, "xtd10", language="it")
    put(tmp_path, "XTD10/test_1kcaptions_it.txt", "\ndue\n")
    with pytest.raises(MmclError, match=r"test_1kcaptions_it\.txt, line 1: this line"):
        samples(tmp_path, "xtd10", language="it")


def test_annotators(tmp_path: Path) -> None:
    valse(tmp_path)
    assert keys(tmp_path, "valse", instrument="actant-swap", agreeing=3) == ["actant-swap_00000"]
    put(tmp_path, "SWiG/exercising_256.jpg", b"x")
    assert len(samples(tmp_path, "valse", instrument="actant-swap", agreeing=0)) == 3
    put(tmp_path, "all/exercising_255.jpg", b"y")
    one = samples(tmp_path, "valse", instrument="actant-swap", agreeing=3, images="all/{image_file}")
    assert one[0]["jpg"] == b"y"


def test_groups_of_aro(tmp_path: Path) -> None:
    MINIATURES["aro"](tmp_path)
    assert len(samples(tmp_path, "aro", part="relation")) == 3
    box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 4, "bbox_h": 4, "image_path": "2371561.jpg"}
    said = {"true_caption": "the open door and the white cat", "false_caption": "the white door and the open cat"}
    put(tmp_path, "visual_genome_attribution.json", [{**box, **said, "attributes": ["open", "white"]}])
    (one,) = samples(tmp_path, "aro", part="attribution")
    assert one["json"] == {**said, "group": "open_white"}


def test_clips_lie_where_they_are_said_to(tmp_path: Path) -> None:
    MINIATURES["audiocaps"](tmp_path)
    put(tmp_path, "x/103549_000020.flac", b"x")
    put(tmp_path, "x/103542_000000.flac", b"y")
    made = samples(tmp_path, "audiocaps", clips="x/{audiocap_id}_{start_time:06d}.flac")
    assert [sample["flac"] for sample in made] == [b"x", b"y"]
    with pytest.raises(MmclError, match="clips: .* cannot be filled in"):
        samples(tmp_path, "audiocaps", clips="{youtube}.wav")
    with pytest.raises(MmclError, match="2 of 2 files"):
        samples(tmp_path, "audiocaps")


def test_starts_are_numbers(tmp_path: Path) -> None:
    table(tmp_path, "test.csv", ["audiocap_id", "youtube_id", "start_time", "caption"], ["1", "a", "1.5", "c"])
    with pytest.raises(MmclError, match=r"start_time '1\.5' is no number of seconds"):
        samples(tmp_path, "audiocaps")
    table(tmp_path, "vggsound.csv", ["a", "x", "c", "test"])
    with pytest.raises(MmclError, match="'x' is no number of seconds"):
        samples(tmp_path, "vggsound")


def test_associations_are_candidates(tmp_path: Path) -> None:
    header = ["ID", "cue", "candidates", "associations"]
    table(tmp_path, "winogavil_dataset.csv", header, ["1", "a", '["b", "c"]', '["d"]'])
    with pytest.raises(MmclError, match="'d' is associated, but no candidate"):
        samples(tmp_path, "winogavil")
    table(tmp_path, "winogavil_dataset.csv", header, ["1", "a", "['b', 'c']", '["d"]'])
    with pytest.raises(MmclError, match="is no list of texts in JSON"):
        samples(tmp_path, "winogavil")


def test_targets_are_in_the_gallery(tmp_path: Path) -> None:
    mini = MINIATURES["fashion_iq"](tmp_path)
    put(tmp_path, "image_splits/split.dress.val.json", ["B006S3USXC"])
    with pytest.raises(MmclError, match="the target 'B005LA6IKA' is not in"):
        samples(tmp_path, "fashion_iq", **mini.args)


def test_pictures_of_a_pair_are_in_the_split(tmp_path: Path) -> None:
    mini = MINIATURES["cirr"](tmp_path)
    split = json.loads((tmp_path / mini.annotations[1]).read_text())
    del split["dev-5-0-img1"]  # of the group
    put(tmp_path, mini.annotations[1], split)
    with pytest.raises(MmclError, match=r"pair 12060: the picture 'dev-5-0-img1' is not in image_splits"):
        samples(tmp_path, "cirr")


def test_files_without_an_extension(tmp_path: Path) -> None:
    put(tmp_path, "rock/README", b"x")
    with pytest.raises(MmclError, match="README: this name has no extension"):
        samples(tmp_path, "folders")


@pytest.mark.parametrize(
    ("what", "content", "message"),
    [
        ("images-idx3", b"\x1f\x8b", "no IDX file"),
        ("images-idx3", struct.pack(">HBB3I", 0, 13, 3, 1, 1, 1) + b"\0", "no IDX file of unsigned bytes"),
        ("images-idx3", struct.pack(">HBB3I", 0, 8, 3, 2, 2, 2) + bytes(7), r"7 bytes, where \(2, 2, 2\)"),
        ("labels-idx1", struct.pack(">HBBI", 0, 8, 1, 2) + bytes(2), "do not belong together"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, what: str, content: bytes, message: str) -> None:
    put(tmp_path, "t10k-images-idx3-ubyte", struct.pack(">HBB3I", 0, 8, 3, 1, 2, 2) + bytes(4))
    put(tmp_path, "t10k-labels-idx1-ubyte", struct.pack(">HBBI", 0, 8, 1, 1) + bytes(1))
    put(tmp_path, f"t10k-{what}-ubyte", content)
    with pytest.raises(MmclError, match=message):
        samples(tmp_path, "mnist")


def test_digits_come_with_scikit_learn(tmp_path: Path) -> None:
    folder = packed(LAYOUTS.check("digits"), None, tmp_path / "cache")
    made = list(read_samples(folder))
    digits, labels = load_digits(return_X_y=True)
    assert [int(sample["cls"]) for sample in made] == labels.tolist()
    for i in (0, 7, 1796):
        found = np.asarray(Image.open(io.BytesIO(made[i]["png"])))
        assert np.array_equal(found, np.array([round(v * 255 / 16) for v in digits[i]]).reshape(8, 8))
    assert json.loads((folder / "counts.json").read_text()) == {"samples": 1797}
