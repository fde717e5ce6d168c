"""mmcl data."""

import functools
import inspect
import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

from cyclopts import App, Parameter, validators

from mmcl import bundled
from mmcl.errors import MmclError, several
from mmcl.files import write_json

if TYPE_CHECKING:
    from mmcl.data import Source

app = App(name="data", help="Build, check, index data sets; train tokenizers.", help_format="plaintext")


@app.command(name="list")
def list_() -> None:
    """List the data sets that mmcl can build."""
    folder = bundled.shelf("data_tools")
    for name in bundled.names(folder, ".py"):
        print(f"{name:<16}{bundled.first_line(folder / f'{name}.py')}")


@app.command(help_flags=[], usage="Usage: mmcl data build NAME --out DIR [--option value ...]")
def build(
    name: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *options: Annotated[str, Parameter(allow_leading_hyphen=True)],
) -> None:
    """Build a data set as tar shards. A folder that is finished already is left as it is.

    Args:
        name: as `mmcl data list` shows it, or a script of your own with a function build(out, ...).
        options: the arguments of build: --out, the folder to make, and what mmcl data build NAME --help shows.
    """
    if name in ("--help", "-h"):  # every other one belongs to the data set
        app["build"].help_print()
        return
    script = bundled.find("data set", name, bundled.shelf("data_tools"), ".py", "mmcl data list")
    sys.path.insert(0, str(script.parent))  # a script may import its neighbour
    try:
        tool = runpy.run_path(str(script))
        if "build" not in tool:
            raise MmclError(f"{script} has no function build(out).")
        plain = Parameter(negative_iterable=())
        command = App(
            name=f"mmcl data build {name}", help_format="plaintext", version_flags=[], default_parameter=plain
        )
        command.default(_unfinished_only(name, tool["build"]))
        command(options, exit_on_error=False, print_error=True, result_action="return_value")
    except ModuleNotFoundError as error:
        raise MmclError(
            f"{name} needs the package {error.name}: pip install {error.name}, or 'mmcl[demo,tools]'."
        ) from None


def _unfinished_only(name: str, build: Callable[..., Any]) -> Callable[..., None]:
    """The function of a data tool as a command: ``--out`` is a folder, and one that is finished is left as it is.

    What it was called with stands in ``out/build.json``, and one that was made with something else is refused.
    """
    signature = inspect.signature(build)

    @functools.wraps(build)
    def command(*arguments: Any, out: Path, **options: Any) -> None:
        bound = signature.bind(out, *arguments, **options)
        bound.apply_defaults()
        asked = {"data set": name, **{k: v for k, v in bound.arguments.items() if k != "out"}}
        asked = json.loads(json.dumps({key: _absolute(value) for key, value in asked.items()}, default=str))
        before = _read(out / "build.json")
        if different := [key for key in asked if before and before.get(key) != asked[key]]:
            said = ", ".join(f"{key} was {before.get(key)!r} and is {asked[key]!r}" for key in different)
            raise MmclError(f"{out} was made otherwise: {said}. Build into another folder, or remove this one.")
        if (out / "manifest.json").exists():
            print(f"{out} is finished already; remove it to build it again.", file=sys.stderr)
            return
        build(out, *arguments, **options)
        if out.is_dir():
            write_json(out / "build.json", asked)
        for key, value in _read(out / "counts.json").items():
            print(f"{value:>12,}  {key}", file=sys.stderr)
        if samples := _read(out / "manifest.json").get("samples"):
            print(f"{samples:>12,}  samples in {out}", file=sys.stderr)

    others = [parameter for name, parameter in signature.parameters.items() if name != "out"]
    folder = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, annotation=Path)
    command.__signature__ = signature.replace(parameters=[*others, folder])  # pyright: ignore[reportAttributeAccessIssue]
    command.__annotations__ = {**build.__annotations__, "out": Path}
    return command


def _absolute(value: Any) -> Any:
    """What names a file that is there, however it is spelled."""
    if isinstance(value, list | tuple):
        return [_absolute(one) for one in value]
    return os.path.abspath(value) if isinstance(value, str | Path) and os.path.exists(value) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@app.command
def train_tokenizer(shards: str, /, *, out: Path, text: str = "txt", vocab_size: int = 8000) -> None:
    """Train a sentencepiece model on the captions of shards.

    Args:
        shards: files: braces, globs, folders.
        out: the .model file to write.
        text: where captions lie: a member (txt) or a field of a JSON member (json:caption).
        vocab_size: pieces, the 256 bytes and 4 special ones included.
    """
    from mmcl.data import stream
    from mmcl.towers import train_sentencepiece

    batches = stream(shards, {"text": text}, batch_size=1000, shuffle=False, captions="all")
    captions = (caption for batch in batches for several in batch["text"] for caption in several or [])
    print(train_sentencepiece(captions, out, vocab_size))


@app.command
def add_embeddings(  # noqa: PLR0913 - they are its options
    model: str,
    /,
    *,
    shards: str,
    out: Path,
    modality: str,
    weights: str | None = None,
    as_: Annotated[str | None, Parameter(name="--as")] = None,
    of: Literal["backbone", "tower"] = "backbone",
    dtype: Literal["fp16", "fp32"] = "fp32",
    batch_size: int = 256,
    workers: int = 2,
) -> None:
    """Write shards again with the vectors of a frozen tower in them, which training then reads instead of making them.

    A recipe reads them with `modalities: {text: text.npy}` and the tower `{name: vector, width: W, head: linear}`.

    Args:
        model: a run folder, an export, or a model of a library: open_clip:NAME, transformers:FOLDER, timm:NAME.
        shards: files: braces, globs, folders.
        out: folder to make. A call that was interrupted goes on there.
        modality: whose tower embeds, and where it lies in the shards, as in text=json:caption; of a run or an export
            just text, where it lies as the recipe says.
        weights: of a model of a library: a file, a folder, a tag, `pretrained` or `random`.
        as_: name of the new member; MODALITY.npy unless told.
        of: vectors of the backbone, or of the whole tower, head included.
        dtype: of the vectors.
        batch_size: rows that are embedded at once.
        workers: threads that read and decode.
    """
    import mmcl
    from mmcl.cache import Member
    from mmcl.cache import add_embeddings as add
    from mmcl.data import Source
    from mmcl.runs import Run

    name, _, where = modality.partition("=")
    encoder = mmcl.load(model, weights=weights)
    if (Path(model) / "recipe.yaml").is_file():
        recipe = Run(Path(model)).recipe()
        source = recipe.data.sources[0]
        modalities = {**source.modalities, **({name: where} if where else {})}
        source = source.model_copy(update={"shards": shards, "modalities": modalities})
        tower = recipe.towers[name].model_dump(mode="json") if name in recipe.towers else None
    elif where:
        source, tower = Source(shards=shards, modalities={name: where}), {"model": model, "weights": weights}
    else:
        raise MmclError(f"{model} has no recipe that says where {name} lies: say it, as in --modality image=jpg.")
    member = Member(as_ or f"{name}.npy", name, of, dtype, tower)
    manifest = add(encoder, source, out, member, batch_size=batch_size, workers=workers)
    made = manifest["embeddings"]
    for reason, count in made["bad"].items():
        print(f"{count:>12,}  without a vector: {reason}", file=sys.stderr)
    said = f"{made['samples']:,} vectors of {made['width']} numbers ({dtype}) as .{made['name']}"
    print(f"{manifest['samples']:,} samples, {said}: {out}", file=sys.stderr)


@app.command
def check(
    *shards: str,
    modality: Annotated[list[str] | None, Parameter(negative_iterable=())] = None,
    recipe: str | None = None,
    json_: Annotated[Path | None, Parameter(name="--json")] = None,
    bad: Path | None = None,
    processes: int | None = None,
) -> None:
    """Read and decode every sample, and say what training would not be able to use. Exit code 1 if anything is bad.

    Args:
        shards: files: braces, globs, folders, URLs.
        modality: where one lies, as in --modality "image=jpg;png" --modality text=json:caption; guessed from the
            members unless told.
        recipe: check the shards of a recipe instead.
        json_: file for the whole report.
        bad: file for a list of everything that is bad, a JSON object a line.
        processes: one a core unless told.
    """
    from contextlib import ExitStack

    from mmcl.data.check import Check
    from mmcl.files import replacing

    for name, path in (("--json", json_), ("--bad", bad)):
        if path is not None and path.is_dir():
            raise MmclError(f"{name}: {path} is a folder; give the name of a file.")
        if path is not None and not path.absolute().parent.is_dir():
            raise MmclError(f"{name}: there is no folder {path.absolute().parent}.")
    found = Check(_sources(shards, modality, recipe))
    with ExitStack() as stack:
        file = stack.enter_context(replacing(bad)) if bad else None
        found.run(processes, lambda one: _note(file, one._asdict()))
    report = found.report()
    if json_ is not None:
        write_json(json_, report)
    _print_check(report)
    if report["reasons"] or report["repeated_keys"]["samples"]:
        raise SystemExit(1)


@app.command
def stats(  # noqa: PLR0913 - they are its options
    *shards: str,
    modality: Annotated[list[str] | None, Parameter(name=("--modality", "--modalities"), negative_iterable=())] = None,
    recipe: str | None = None,
    page: Path | None = None,
    json_: Annotated[Path | None, Parameter(name="--json")] = None,
    tokenizer: str | None = None,
    context_length: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    sample: int | None = None,
    looks: bool = True,
    processes: int | None = None,
) -> None:
    """Say what shards hold: counts, sizes, durations, caption lengths, languages, what comes more than once.

    Args:
        shards: files: braces, globs, folders, URLs.
        modality: where one lies, as in --modality "image=jpg;png" --modality text=json:caption, or image=jpg,text=txt;
            guessed from the members unless told.
        recipe: look at the shards of a recipe instead.
        page: an HTML page to write: histograms, tables, samples, duplicates side by side.
        json_: file for all of it.
        tokenizer: count tokens as well: a run folder, a sentencepiece .model, open_clip_bpe, transformers:FOLDER.
        context_length: tokens that are not cut; the run's, or 77, unless told.
        sample: look at so many samples, drawn with a fixed seed. (Remote shards are fetched whole all the same.)
        looks: decode pictures at a small scale, to find those that look alike.
        processes: one a core unless told.
    """
    import time

    from mmcl.data_stats import Asked, Stats, report, summary, twins, write_page
    from mmcl.data_stats.languages import teller

    for name, path in (("--page", page), ("--json", json_)):
        if path is not None and path.is_dir():
            raise MmclError(f"{name}: {path} is a folder; give the name of a file.")
    if context_length is not None and tokenizer is None:
        raise MmclError("--context-length says how many tokens are not cut: say --tokenizer as well.")
    start = time.perf_counter()
    found = Stats(_sources(shards, modality, recipe), Asked(tokenizer, context_length, looks), sample)
    found.run(processes)
    more = twins(found)
    told = report(found, more)
    for line in summary(told):
        print(line)
    if teller() is None and any(said["kind"] == "text" for said in told["modalities"].values()):
        print("languages are not told: pip install 'mmcl[stats]'", file=sys.stderr)
    if json_ is not None:
        json_.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_, told)
    if page is not None:
        print(f"page: {write_page(page, found, told, more)}", file=sys.stderr)
    print(f"{time.perf_counter() - start:.1f} s", file=sys.stderr)


@app.command
def index(*shards: str, sha256: bool = False, processes: int | None = None) -> None:
    """Index shards on all cores, and describe each folder in a manifest.json, so that remote readers know its counts.

    Args:
        shards: files: braces, globs, folders.
        sha256: put checksums of the whole files into the manifest; downloads are then held to them.
        processes: one a core unless told.
    """
    from mmcl.data.describe import describe

    if not shards:
        raise MmclError("say which shards: mmcl data index SHARDS")
    for folder, done in describe(shards, sha256, processes).items():
        print(f"{folder}: {done}")


def _sources(shards: tuple[str, ...], modality: list[str] | None, recipe: str | None) -> "list[Source]":
    from mmcl.data import Source
    from mmcl.data.check import guess
    from mmcl.data.source import said_places

    if bool(shards) == bool(recipe) or (recipe and modality):
        raise MmclError("say which shards, with --modality NAME=WHERE where need be, or --recipe RECIPE.")
    if recipe:
        from mmcl.recipe import load_recipe

        return load_recipe(recipe).data.sources
    if not modality:
        source = guess(shards)
        print(f"modalities, as the members suggest: {source.modalities}", file=sys.stderr)
        return [source]
    return [Source(shards=list(shards), modalities=said_places(modality, "--modality"))]


def _note(file: "BinaryIO | None", content: dict[str, Any]) -> None:
    if file is not None:
        file.write(f"{json.dumps(content)}\n".encode())


def _print_check(report: dict[str, Any]) -> None:
    samples, shards = several(report["samples"], "sample"), several(report["shards"], "shard")
    print(f"{samples} in {shards}, {report['seconds']:.0f} s, {report['samples_per_second']:,.0f} samples/s")
    for name, count in report["modalities"].items():
        sizes = report["sizes"].get(name, {}).items()
        shown = (f"{what} {q['least']:g} .. {q['half']:g} .. {q['most']:g}" for what, q in sizes)
        print(f"{count:>12,}  {name:<12} {', '.join(shown)}")
    for name, reasons in report["reasons"].items():
        for reason, count in reasons.items():
            first = next(e for e in report["examples"] if (e["modality"] or "shard") == name and e["reason"] == reason)
            print(f"{count:>12,}  bad: {name}: {reason}; first {first['key']} in {first['shard']}")
    if count := report["repeated_keys"]["samples"]:
        print(f"{count:>12,}  samples share their key with another: {report['repeated_keys']['examples'][0]}")
    for extension in report["extensions_with_dots"]:
        count = report["members"][extension]
        print(f"{count:>12,}  members .{extension} are read by nothing; a key ends at the first dot of a name")
    if report["reasons"]:
        bad = several(report["bad_samples"], "sample"), several(report["bad_shards"], "shard")
        print(f"{' and '.join(bad)} have something bad")
    else:
        print("nothing is bad" + (", but keys are not unique" if report["repeated_keys"]["samples"] else ""))
