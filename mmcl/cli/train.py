"""mmcl train."""

from pathlib import Path


def train(
    recipe: str,
    /,
    *overrides: str,
    resume: bool = False,
    dry_run: bool = False,
    json: bool = False,
    profile: bool = False,
    trace: Path | None = None,
) -> None:
    """Train a recipe, measure its tasks and write a report.

    On several processes of one machine: torchrun --nproc-per-node 2 -m mmcl train ... (on CPUs with
    ACCELERATE_USE_CPU=true before it), or on GPUs accelerate launch -m mmcl train ...

    Args:
        recipe: a YAML file, a name as `mmcl recipes` lists it, or a run folder to go on with.
        overrides: key.path=value, as in run=runs/mine data.batch_size=512; values are YAML.
        resume: go on from the newest whole checkpoint of the run folder.
        dry_run: check all that the run needs, print what it will cost, and train nothing.
        json: print the plan of a dry run as JSON.
        profile: train a few steps, keep nothing of them, and print where their time goes.
        trace: where a profile writes its trace, for https://ui.perfetto.dev.
    """
    from mmcl.errors import MmclError
    from mmcl.stops import Stops

    if json and not dry_run:
        raise MmclError("--json goes with --dry-run.")
    if trace is not None and not profile:
        raise MmclError("--trace goes with --profile.")
    if profile and (resume or dry_run):
        raise MmclError("--profile goes neither with --resume nor with --dry-run.")
    if profile:
        return _profile(recipe, overrides, trace)
    if dry_run:
        return _plan(recipe, overrides, resume, json)
    with Stops() as stops:  # before torch is imported, which takes seconds
        from mmcl import distributed, workflow

        run = workflow.train(recipe, *overrides, resume=resume, stops=stops)
        if distributed.rank() == 0:
            print((run / "results.json").read_text(), end="")
            print_paths(run)
    return None


def print_paths(run: Path) -> None:
    """Say where to look, on standard error."""
    import sys

    print(f"run folder: {run}\nreport:     {run / 'report.html'}", file=sys.stderr)


def _plan(recipe: str, overrides: tuple[str, ...], resume: bool, as_json: bool) -> None:
    """Print the plan of a run, what could not be checked, and all that is wrong."""
    import json
    import sys
    from dataclasses import asdict

    from mmcl import distributed
    from mmcl.dry_run import dry_run
    from mmcl.training.plan_text import in_words

    found = dry_run(recipe, *overrides, resume=resume)
    if distributed.launched()[0] == 0:
        if as_json:
            print(json.dumps(asdict(found), indent=1))
        elif found.plan is not None:
            print(in_words(found.plan))
        for said in found.unchecked:
            print(f"not checked: {said}", file=sys.stderr)
        for said in found.errors:
            print(f"mmcl: {said}", file=sys.stderr)
        known = "this would run, as far as it could be checked" if found.unchecked else "this would run"
        print("this would not run." if found.errors else f"{known}; nothing was written.", file=sys.stderr)
    if found.errors:
        sys.exit(2)


def _profile(recipe: str, overrides: tuple[str, ...], trace: Path | None) -> None:
    """Print where the time of a step goes."""
    from mmcl import distributed
    from mmcl.recipe import load_recipe
    from mmcl.training.profile import in_words, profiled

    found = profiled(load_recipe(recipe, overrides), trace=trace)
    if distributed.rank() == 0:
        print(in_words(found))
