"""Data sets of pictures and captions in miniature."""

import gzip
import json
from pathlib import Path
from typing import Any

from tests.layouts.files import Miniature, picture, put, table


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
