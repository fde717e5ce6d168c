"""mmcl train."""

from pathlib import Path


def train(recipe: str, /, *overrides: str, resume: bool = False) -> None:
    """Train a recipe, measure its tasks and write a report.

    On several processes of one machine: torchrun --nproc-per-node 2 -m mmcl train ... (on CPUs with
    ACCELERATE_USE_CPU=true before it), or on GPUs accelerate launch -m mmcl train ...

    Args:
        recipe: a YAML file, a name as `mmcl recipes` lists it, or a run folder to go on with.
        overrides: key.path=value, as in run=runs/mine data.batch_size=512; values are YAML.
        resume: go on from the newest whole checkpoint of the run folder.
    """
    from mmcl import distributed, workflow

    run = workflow.train(recipe, *overrides, resume=resume)
    if distributed.rank() == 0:
        print((run / "results.json").read_text(), end="")
        print_paths(run)


def print_paths(run: Path) -> None:
    """Say where to look, on standard error."""
    import sys

    print(f"run folder: {run}\nreport:     {run / 'report.html'}", file=sys.stderr)
