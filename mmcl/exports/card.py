"""The model card of an export: README.md."""

from pathlib import Path

import jinja2

from mmcl.exports.base import Source, Written


def write_card(source: Source, kind: str, written: Written, folder: Path) -> None:
    """Write the card of an export from what lies in the run's folder.

    Args:
        source: the run.
        kind: the format's name.
        written: what the format has put into the folder.
        folder: of the export.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))
    page = template.render(name=source.run.path.resolve().name, kind=kind, notes=written.notes)
    (folder / "README.md").write_text(page, encoding="utf-8")
