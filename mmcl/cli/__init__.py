"""The command line: one thin file a command, imported when it is called."""

import sys
from collections.abc import Sequence

from cyclopts import App

from mmcl import __version__
from mmcl.errors import MmclError, StoppedError

AGAIN = 75
"""Exit code of a run that a signal has ended, once all is saved (EX_TEMPFAIL of sysexits.h: try again)."""

app = App(
    name="mmcl",
    help="Train, measure and export embedding models over images, text and audio, on tar shards.",
    version=__version__,
    version_flags=["--version"],
    help_format="plaintext",
)
app.command("mmcl.cli.train:train", name="train", help="Train a recipe, measure its tasks and write a report.")
app.command("mmcl.cli.report:report", name="report", help="Write the report of a run anew.")
app.command("mmcl.cli.evaluate:evaluate", name="eval", help="Measure a run on tasks.")
app.command("mmcl.cli.embed:embed", name="embed", help="Write embeddings and metadata of shards.")
app.command("mmcl.cli.search:search", name="search", help="Search embeddings, in the terminal or on a local page.")
app.command("mmcl.cli.export:export", name="export", help="Hand a run on as a folder that other libraries open.")
app.command("mmcl.cli.recipes:app", name="recipes", help="List, show or copy the recipes that ship with mmcl.")
app.command("mmcl.cli.objectives:app", name="objectives", help="List or show the objectives that have a name.")
app.command("mmcl.cli.towers:app", name="towers", help="List or show the towers that a recipe may name.")
app.command("mmcl.cli.tasks:tasks", name="tasks", help="List the tasks that ship with mmcl.")
app.command("mmcl.cli.data:app", name="data", help="List and build data sets; train tokenizers.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    A person's mistake is one message and exit code 2; a traceback is a defect, or ``--debug``. Code 75: a signal has
    ended a run, whose state is saved; ``--resume`` goes on.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        app(words, exit_on_error=False, print_error=True, result_action="return_value")
    except MmclError as error:
        if debug:
            raise
        print(f"mmcl: {error}", file=sys.stderr)
        sys.exit(2)
    except StoppedError as stopped:
        print(f"mmcl: {stopped}", file=sys.stderr)
        sys.exit(AGAIN)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug or not type(error).__module__.startswith("cyclopts"):
            raise
        sys.exit(2)  # cyclopts has said what is wrong with the command
