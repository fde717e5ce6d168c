"""Data sets of choices, associations, changes and digits in miniature."""

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.layouts.files import Miniature, picture, put, table


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


def fashion_iq(root: Path) -> Miniature:
    entries = [
        {
            "candidate": "B00E9AWYWO",
            "target": "B005LA6IKA",
            "captions": ["is a lighter color.", " has longer sleeves "],
        },
        {"candidate": "B005LA6IKA", "target": "B006S3USXC", "captions": ["is red", ""]},
    ]
    names = ["B005LA6IKA", "B006S3USXC", "B00E9AWYWO"]
    put(root, "captions/cap.dress.val.json", entries)
    put(root, "image_splits/split.dress.val.json", names)
    data = {name: put(root, f"images/{name}.jpg", picture(i)) for i, name in enumerate(names)}
    texts = ["is a lighter color and has longer sleeves", "is red"]
    expected = {
        f"query_0000{i}": {
            "query.jpg": data[str(entry["candidate"])],
            "json": {"shows": entry["target"], "text": texts[i], "captions": entry["captions"]},
        }
        for i, entry in enumerate(entries)
    }
    expected |= {f"picture_{name}": {"target.jpg": data[name], "json": {"shows": name}} for name in names}
    annotations = ["captions/cap.dress.val.json", "image_splits/split.dress.val.json"]
    args = {"category": "dress", "extension": "jpg"}
    return Miniature(args, expected, annotations, ["images/B00E9AWYWO.jpg", "images/B006S3USXC.jpg"])


def cirr(root: Path) -> Miniature:
    names = [f"dev-{i}-0-img{i % 2}" for i in range(7)]
    entries = [
        {
            "pairid": 12060 + i,
            "reference": names[i],
            "target_hard": names[i + 1],
            "target_soft": {names[i + 1]: 1.0},
            "caption": text,
            "img_set": {"id": 36, "members": names[:6][::-1], "reference_rank": 5 - i, "target_rank": 4 - i},
        }
        for i, text in enumerate(["show three bottles", "Fewer paper towels per pack"])
    ]
    annotations = ["captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"]
    put(root, annotations[0], entries)
    put(root, annotations[1], {name: f"./dev/{name}.png" for name in names})
    data = {name: put(root, f"img_raw/dev/{name}.png", picture(i, "PNG")) for i, name in enumerate(names)}
    expected = {
        f"query_0{entry['pairid']}": {
            "query.png": data[names[i]],
            "json": {
                "shows": names[i + 1],
                "text": entry["caption"],
                "reference": names[i],
                "members": names[:6][::-1],
            },
        }
        for i, entry in enumerate(entries)
    }
    expected |= {f"picture_{name}": {"target.png": data[name], "json": {"shows": name}} for name in names}
    return Miniature({}, expected, annotations, ["img_raw/dev/dev-0-0-img0.png", "img_raw/dev/dev-1-0-img1.png"])


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
