"""Data sets of sounds in miniature."""

from pathlib import Path

from tests.layouts.files import Miniature, put, sound, table


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
