"""mmcl report."""

from pathlib import Path


def report(run: Path, /) -> None:
    """Write the report of a run anew, from what lies in its folder.

    A run does so itself when it ends, is stopped or fails; one that was killed, or still goes on, does not.

    Args:
        run: a run folder.
    """
    from mmcl import workflow

    print(workflow.report(run))
