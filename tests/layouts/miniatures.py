"""Each layout in miniature: a folder as it is distributed, and the samples that must come of it.

Names, columns and fields are those of the real data sets (looked up in their repositories), the content is made up.
"""

import csv
import gzip
import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image


@dataclass
class Miniature:
    """What was made."""

    args: dict[str, Any]
    expected: dict[str, dict[str, Any]]  # key -> member -> bytes, text, or what the JSON says
    annotations: list[str]  # each of which the layout cannot do without
    media: list[str] = field(default_factory=list)  # of the first sample first


def put(root: Path, name: str, content: bytes | str | list[Any] | dict[str, Any]) -> bytes:
    """Write a file below a folder."""
    data = content if isinstance(content, bytes) else content if isinstance(content, str) else json.dumps(content)
    data = data if isinstance(data, bytes) else data.encode()
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def table(root: Path, name: str, *rows: list[Any]) -> None:
    csv.writer(out := io.StringIO(), lineterminator="\n").writerows(rows)
    put(root, name, out.getvalue())


def sound(number: int) -> bytes:
    soundfile.write(out := io.BytesIO(), np.full(80, number / 100, np.float32), 8000, format="WAV")
    return out.getvalue()


def pixels(number: int) -> np.ndarray:
    """12 rows and 16 columns, every one of another colour."""
    y, x = np.mgrid[:12, :16]
    return np.stack([y * 10 + number, x * 10, np.full_like(x, number)], -1).astype(np.uint8)


def picture(number: int, kind: str = "JPEG") -> bytes:
    Image.fromarray(pixels(number)).save(out := io.BytesIO(), kind)
    return out.getvalue()


def esc50(root: Path) -> Miniature:
    rows = [
        ["1-100032-A-0.wav", "1", "0", "dog", "True", "100032", "A"],
        ["5-9032-A-0.wav", "5", "0", "dog", "True", "9032", "A"],
        ["2-81112-A-34.wav", "2", "34", "can_opening", "False", "81112", "A"],
    ]
    header = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    table(root, "meta/esc50.csv", header, *rows)
    data = [put(root, f"audio/{row[0]}", sound(i)) for i, row in enumerate(rows)]
    expected = {
        row[0][:-4]: {"wav": wav, "json": dict(zip(header, row, strict=True))}
        for row, wav in zip(rows, data, strict=True)
    }
    return Miniature({}, expected, ["meta/esc50.csv"], [f"audio/{row[0]}" for row in rows])


def urbansound8k(root: Path) -> Miniature:
    header = ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]
    rows = [
        ["100032-3-0-0.wav", "100032", "0.0", "0.317551", "1", "5", "3", "dog_bark"],
        ["100263-2-0-117.wav", "100263", "58.5", "62.5", "1", "10", "2", "children_playing"],
    ]
    table(root, "metadata/UrbanSound8K.csv", header, *rows)
    expected = {}
    for i, row in enumerate(rows):
        wav = put(root, f"audio/fold{row[5]}/{row[0]}", sound(i))
        expected[row[0][:-4]] = {"wav": wav, "json": dict(zip(header, row, strict=True))}
    media = [f"audio/fold{row[5]}/{row[0]}" for row in rows]
    return Miniature({}, expected, ["metadata/UrbanSound8K.csv"], media)


def fsd50k(root: Path) -> Miniature:
    labels = ["Electric_guitar,Guitar,Music", "Crushing"]
    table(
        root,
        "FSD50K.ground_truth/eval.csv",
        ["fname", "labels", "mids"],
        ["37199", labels[0], "/m/02sgy,/m/0342h,/m/04rlf"],
        ["865", labels[1], "/m/07plct2"],
    )
    expected = {
        name: {"wav": put(root, f"FSD50K.eval_audio/{name}.wav", sound(i)), "json": {"labels": said.split(",")}}
        for i, (name, said) in enumerate(zip(["37199", "865"], labels, strict=True))
    }
    media = ["FSD50K.eval_audio/37199.wav", "FSD50K.eval_audio/865.wav"]
    return Miniature({}, expected, ["FSD50K.ground_truth/eval.csv"], media)


def audiocaps(root: Path) -> Miniature:
    table(
        root,
        "test.csv",
        ["audiocap_id", "youtube_id", "start_time", "caption"],
        ["103549", "7fmOlUlwoNg", "20", "constant rattling noise"],
        ["103542", "_-SEIRnLAh8", "0", "food is frying, and a woman talks"],
        ["97151", "7fmOlUlwoNg", "20", "something vibrates"],
    )
    names = ["audio/Y7fmOlUlwoNg_20.wav", "audio/Y_-SEIRnLAh8_0.wav"]
    data = [put(root, name, sound(i)) for i, name in enumerate(names)]
    said = [["constant rattling noise", "something vibrates"], ["food is frying, and a woman talks"]]
    expected = {
        "Y7fmOlUlwoNg_20": {
            "wav": data[0],
            "json": {"captions": said[0], "youtube_id": "7fmOlUlwoNg", "start_time": 20},
        },
        "Y_-SEIRnLAh8_0": {"wav": data[1], "json": {"captions": said[1], "youtube_id": "_-SEIRnLAh8", "start_time": 0}},
    }
    return Miniature({"clips": "audio/Y{youtube_id}_{start_time}.wav"}, expected, ["test.csv"], names)


def clotho(root: Path) -> Miniature:
    header = ["file_name", *(f"caption_{i}" for i in range(1, 6))]
    names = ["20.45 rain, [stereo].wav", "Santa Motor.wav"]
    rows = [[name, *(f"{name} is heard, {i} times" for i in range(1, 6))] for name in names]
    table(root, "clotho_captions_evaluation.csv", header, *rows)
    data = [put(root, f"evaluation/{name}", sound(i)) for i, name in enumerate(names)]
    keys = ["00000_20_45 rain, [stereo]", "00001_Santa Motor"]
    expected = {
        key: {"wav": wav, "json": {"captions": row[1:], "file_name": row[0]}}
        for key, wav, row in zip(keys, data, rows, strict=True)
    }
    return Miniature({}, expected, ["clotho_captions_evaluation.csv"], [f"evaluation/{name}" for name in names])


def vggsound(root: Path) -> Miniature:
    table(
        root,
        "vggsound.csv",
        ["---g-f_I2yQ", "1", "people marching", "test"],
        ["--0PQM4-hqg", "30", "waterfall burbling", "train"],
        ["0_8-g2rof7E", "49", "heart sounds, heartbeat", "test"],
    )
    names = ["audio/---g-f_I2yQ_000001.wav", "audio/0_8-g2rof7E_000049.wav"]
    data = [put(root, name, sound(i)) for i, name in enumerate(names)]
    said = [("---g-f_I2yQ", 1, "people marching"), ("0_8-g2rof7E", 49, "heart sounds, heartbeat")]
    expected = {
        f"Y{one}_{start}": {"wav": wav, "json": {"label": label, "youtube_id": one, "start": start}}
        for (one, start, label), wav in zip(said, data, strict=True)
    }
    return Miniature({}, expected, ["vggsound.csv"], names)


def folders(root: Path) -> Miniature:
    names = ["blues/blues.00000.wav", "rock/rock.00001.wav"]
    data = [put(root, f"genres_original/{name}", sound(i)) for i, name in enumerate(names)]
    put(root, "genres_original/.DS_Store", b"?")
    put(root, "genres_original/rock/.hidden.wav", b"?")
    put(root, "genres_original/rock/features.csv", b"?")
    expected = {
        "blues/blues_00000": {"wav": data[0], "json": {"class": "blues"}},
        "rock/rock_00001": {"wav": data[1], "json": {"class": "rock"}},
    }
    return Miniature({"files": "*.wav", "below": "genres_original"}, expected, [])


def karpathy(root: Path) -> Miniature:
    def image(name: str, split: str, count: int) -> dict[str, Any]:
        raw = [f"{name} {i}.\n" for i in range(count)]
        sentences = [{"tokens": one.split(), "raw": one, "imgid": 0, "sentid": i} for i, one in enumerate(raw)]
        return {
            "filepath": "val2014",
            "filename": name,
            "split": split,
            "imgid": 0,
            "sentences": sentences,
            "cocoid": 1,
        }

    names = ["COCO_val2014_000000391895.jpg", "COCO_val2014_000000522418.jpg"]
    images = [image("COCO_val2014_000000184613.jpg", "val", 5), image(names[0], "test", 5), image(names[1], "test", 7)]
    put(root, "dataset_coco.json", {"images": images, "dataset": "coco"})
    expected = {
        name[:-4]: {
            "jpg": put(root, f"coco/val2014/{name}", picture(i)),
            "json": {"captions": [f"{name} {j}.\n" for j in range(5)], "file": name},
        }
        for i, name in enumerate(names)
    }
    args = {"annotations": "dataset_coco.json", "images": "coco"}
    return Miniature(args, expected, ["dataset_coco.json"], [f"coco/val2014/{name}" for name in names])


def coco_captions(root: Path) -> Miniature:
    images = [{"id": 397133, "file_name": "000000397133.jpg"}, {"id": 37777, "file_name": "000000037777.jpg"}]
    said = [{"image_id": image["id"], "id": 100 - i, "caption": f"{i}"} for i in range(6) for image in images]
    put(root, "annotations/captions_val2017.json", {"info": {}, "images": images, "annotations": said})
    expected = {
        str(image["file_name"])[:-4]: {
            "jpg": put(root, f"val2017/{image['file_name']}", picture(i)),
            "json": {"captions": ["5", "4", "3", "2", "1"], "image_id": image["id"]},
        }
        for i, image in enumerate(images)
    }
    media = [f"val2017/{image['file_name']}" for image in images]
    return Miniature({}, expected, ["annotations/captions_val2017.json"], media)


def captions_table(root: Path) -> Miniature:
    header = ["raw", "sentids", "split", "filename", "img_id"]
    captions = [["The man, with pierced ears.", 'A "man".'], ["Bäume"]]
    names = ["1007129816.jpg", "1009434119.jpg"]
    rows = [
        [json.dumps(said), "[0, 1]", "test", name, str(i)]
        for i, (said, name) in enumerate(zip(captions, names, strict=True))
    ]
    table(root, "test_1k_flickr.csv", header, *rows, ['["no"]', "[]", "train", "1.jpg", "9"])
    expected = {
        name[:-4]: {
            "jpg": put(root, f"images_flickr_1k_test/{name}", picture(i)),
            "json": {"captions": captions[i], "file": name},
        }
        for i, name in enumerate(names)
    }
    args = {"table": "test_1k_flickr.csv", "images": "images_flickr_1k_test"}
    return Miniature(args, expected, ["test_1k_flickr.csv"], [f"images_flickr_1k_test/{name}" for name in names])


def xtd10(root: Path) -> Miniature:
    names = ["COCO_train2014_000000061844.jpg", "COCO_train2014_000000061849.jpg"]
    put(root, "XTD10/test_image_names.txt", "\n".join(names) + "\n")
    put(root, "XTD10/test_1kcaptions_it.txt", "uno\ndue\n")
    put(root, "STAIR/test_1kcaptions_jp.txt", "猫が眠る\r\n犬が走る\r\n")
    expected = {
        name[:-4]: {"jpg": put(root, f"images/{name}", picture(i)), "txt": said}
        for i, (name, said) in enumerate(zip(names, ["猫が眠る", "犬が走る"], strict=True))
    }
    annotations = ["XTD10/test_image_names.txt", "STAIR/test_1kcaptions_jp.txt"]
    return Miniature({"language": "jp"}, expected, annotations, [f"images/{name}" for name in names])


def multi30k(root: Path) -> Miniature:
    put(root, "data/task1/image_splits/test_2017_mscoco.txt", "COCO_train2014_000000000094.jpg#1\n36979.jpg\n")
    said = "Ein Mann.\nZwei Hunde laufen.\n"
    put(root, "data/task1/raw/test_2017_mscoco.de.gz", gzip.compress(said.encode()))
    names = ["COCO_train2014_000000000094.jpg", "36979.jpg"]
    expected = {
        name[:-4]: {"jpg": put(root, f"pictures/{name}", picture(i)), "txt": line}
        for i, (name, line) in enumerate(zip(names, said.splitlines(), strict=True))
    }
    annotations = ["data/task1/image_splits/test_2017_mscoco.txt", "data/task1/raw/test_2017_mscoco.de.gz"]
    args = {"language": "de", "split": "test_2017_mscoco", "images": "pictures"}
    return Miniature(args, expected, annotations, [f"pictures/{name}" for name in names])


def crossmodal3600(root: Path) -> Miniature:
    names = ["000411001ff7dd4f", "003f6d3b5a5e1b3d"]
    lines = [
        {
            "image/key": name,
            "image/locale": "en",
            "quz": {"caption": [f"q{i}", f"q{i} too"], "caption/tokenized": ["", ""]},
            "en": {"caption": ["e"]},
        }
        for i, name in enumerate(names)
    ]
    put(root, "captions.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    expected = {
        name: {"jpg": put(root, f"images/{name}.jpg", picture(i)), "json": {"captions": [f"q{i}", f"q{i} too"]}}
        for i, name in enumerate(names)
    }
    return Miniature({"language": "quz"}, expected, ["captions.jsonl"], [f"images/{name}.jpg" for name in names])


def sugar_crepe(root: Path) -> Miniature:
    entries = {
        str(number): {"filename": name, "caption": f"{name} a. ", "negative_caption": f"{name} b."}
        for number, name in [(0, "000000252219.jpg"), (7, "000000085329.jpg"), (8, "000000252219.jpg")]
    }
    put(root, "data/replace_rel.json", entries)
    files = {
        name: put(root, f"val2017/{name}", picture(len(name))) for name in ("000000252219.jpg", "000000085329.jpg")
    }
    expected = {
        f"replace_rel_{number}": {"jpg": files[entry["filename"]], "json": entry} for number, entry in entries.items()
    }
    media = [f"val2017/{name}" for name in files]
    return Miniature({"part": "replace_rel"}, expected, ["data/replace_rel.json"], media)


def aro(root: Path) -> Miniature:
    def entry(name: str, relation: str, box: tuple[int, int, int, int]) -> dict[str, Any]:
        sides = dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), box, strict=True))
        captions = {"true_caption": "the door is behind the cat", "false_caption": "the cat is behind the door"}
        return {"image_id": name[:-4], "image_path": name, **sides, **captions, "relation_name": relation}

    entries = [
        entry("2371561.jpg", "behind", (2, 3, 5, 4)),
        entry("2371561.jpg", "near", (0, 0, 4, 4)),
        entry("2391566.jpg", "eating", (0, 0, 16, 12)),
    ]
    put(root, "visual_genome_relation.json", entries)
    for i, name in enumerate(["2371561.jpg", "2391566.jpg"]):
        put(root, f"images/{name}", picture(i))
    decoded = [np.asarray(Image.open(root / "images" / name)) for name in ("2371561.jpg", "2391566.jpg")]
    said = {"true_caption": "the door is behind the cat", "false_caption": "the cat is behind the door"}
    expected = {
        "relation_00000": {"png": decoded[0][3:7, 2:7], "json": {**said, "group": "behind"}},
        "relation_00002": {"png": decoded[1], "json": {**said, "group": "eating"}},
    }
    args = {"part": "relation", "without": ["near", "with"]}
    return Miniature(args, expected, ["visual_genome_relation.json"], ["images/2371561.jpg", "images/2391566.jpg"])


def winoground(root: Path) -> Miniature:
    def line(number: int) -> dict[str, Any]:
        images = {f"image_{i}": f"ex_{number}_img_{i}" for i in (0, 1)}
        said = {"caption_0": "an old person kisses a young person", "caption_1": "a young person kisses an old person"}
        tags = {"tag": "Adjective-Age", "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": "Object"}
        return {"id": number, **images, **said, **tags}

    put(root, "examples.jsonl", "\n".join(json.dumps(line(number)) for number in (0, 12)))
    expected = {}
    for number in (0, 12):
        files = [put(root, f"images/ex_{number}_img_{i}.png", picture(number + i, "PNG")) for i in (0, 1)]
        said = {name: value for name, value in line(number).items() if not name.startswith("image_")}
        expected[f"ex_{number:03d}"] = {"0.png": files[0], "1.png": files[1], "json": said}
    media = [f"images/ex_{number}_img_{i}.png" for number in (0, 12) for i in (0, 1)]
    return Miniature({}, expected, ["examples.jsonl"], media)


def valse(root: Path) -> Miniature:
    def entry(file: str, caption: Any, agreeing: int, dataset: str = "SWiG") -> dict[str, Any]:
        votes = {"foil": 0, "caption": agreeing, "other": 3 - agreeing}
        said = {"dataset": dataset, "original_split": "test", "linguistic_phenomena": "actions", "image_file": file}
        return {**said, "caption": caption, "mturk": votes, "foil": "A torso exercises for a man."}

    caption = "A man exercises his torso."
    entries = {
        "actions_test_0": entry("exercising_255.jpg", caption, 3),
        "actions_test_1": entry("exercising_256.jpg", caption, 1),
        "coco": entry("COCO_val2014_000000522703.jpg", [caption], 2, "FOIL dataset"),
    }
    put(root, "data/actant-swap.json", entries)
    names = ["SWiG/exercising_255.jpg", "FOIL dataset/COCO_val2014_000000522703.jpg"]
    data = [put(root, name, picture(i)) for i, name in enumerate(names)]
    said = {"caption": caption, "foil": "A torso exercises for a man.", "linguistic_phenomena": "actions"}
    expected = {
        "actant-swap_00000": {"jpg": data[0], "json": {**said, "dataset": "SWiG", "name": "actions_test_0"}},
        "actant-swap_00002": {"jpg": data[1], "json": {**said, "dataset": "FOIL dataset", "name": "coco"}},
    }
    return Miniature({"instrument": "actant-swap"}, expected, ["data/actant-swap.json"], names)


def winogavil(root: Path) -> Miniature:
    header = ["ID", "cue", "associations", "score_fool_the_ai", "num_associations", "num_candidates", "candidates"]
    candidates = [["bison", "shelter", "beard", "flea", "shave"], ["shave", "ice", "flea", "a b", "owl", "beard"]]
    associations = [["bison", "beard"], ["owl"]]
    rows = [
        [str(i + 7), cue, json.dumps(right), "80", str(len(right)), str(len(some)), json.dumps(some)]
        for i, (cue, right, some) in enumerate(zip(["Pogonophile", "ear"], associations, candidates, strict=True))
    ]
    table(root, "winogavil_dataset.csv", header, *rows)
    names = sorted({name for some in candidates for name in some})
    data = {name: put(root, f"winogavil_images/{name}.jpg", picture(i)) for i, name in enumerate(names)}
    wrong = [["shelter", "flea", "shave"], ["shave", "ice", "flea", "a b", "beard"]]
    expected = {
        str(i + 7): {
            **{f"right.{j}.jpg": data[name] for j, name in enumerate(associations[i])},
            **{f"wrong.{j}.jpg": data[name] for j, name in enumerate(wrong[i])},
            "json": {
                "cue": ["Pogonophile", "ear"][i],
                "prompt": ["A pogonophile", "An ear"][i],
                "right": associations[i],
                "wrong": wrong[i],
                "num_candidates": [5, 6][i],
            },
        }
        for i in range(2)
    }
    media = ["winogavil_images/bison.jpg", "winogavil_images/owl.jpg"]
    return Miniature({}, expected, ["winogavil_dataset.csv"], media)


def mnist(root: Path) -> Miniature:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    put(
        root,
        "t10k-images-idx3-ubyte.gz",
        gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 3, 28, 28) + pictures.tobytes()),
    )
    put(root, "t10k-labels-idx1-ubyte", struct.pack(">HBBI", 0, 8, 1, 3) + bytes([9, 0, 3]))
    expected = {f"test_0000{i}": {"png": pictures[i], "cls": label} for i, label in enumerate("903")}
    return Miniature({}, expected, ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"])


MINIATURES: dict[str, Callable[[Path], Miniature]] = {
    make.__name__: make
    for make in (
        aro,
        audiocaps,
        captions_table,
        clotho,
        coco_captions,
        crossmodal3600,
        esc50,
        folders,
        fsd50k,
        karpathy,
        mnist,
        multi30k,
        sugar_crepe,
        urbansound8k,
        valse,
        vggsound,
        winogavil,
        winoground,
        xtd10,
    )
}
