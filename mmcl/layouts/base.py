"""What a layout is: a reader of the form in which a data set is distributed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import PlainValidator, SerializeAsAny

from mmcl.data import Tally
from mmcl.errors import MmclError
from mmcl.layouts.folder import File, Folder
from mmcl.registry import Part, Registry

Row = dict[str, Any]
"""A sample before its files are read: ``__key__``, and for each member bytes, a text, what JSON can hold, or a `Media`
or `Later`."""
SHOWN = 3  # of what is missing


@dataclass(frozen=True)
class Later:
    """A member that is made when it is written, since it costs something."""

    make: Callable[[], Any]


class Layout(ABC):
    """The form in which a data set is distributed: annotations, and files that they name.

    A layout says which samples there are (`rows`); the files are read here, as they are. What the annotations name and
    the folder lacks is an error, or is counted where data sets of this kind are known to lose files (`loses`).
    """

    version: ClassVar[int] = 1
    """Goes up when the layout makes other samples of the same files, so that what was packed before is packed anew."""
    loses: ClassVar[str] = ""
    """Why files may be missing, in words; nothing where the data set must be whole."""

    @abstractmethod
    def holds(self) -> list[str]:
        """What the folder holds, for messages: paths and patterns relative to it."""

    @abstractmethod
    def rows(self, folder: Folder) -> Iterator[Row]:
        """The samples, in the order of the annotations.

        Raises:
            MmclError: an annotation is missing, or is not what it should be.
        """

    def samples(self, root: Path, tally: Tally | None = None) -> Iterator[Row]:
        """Samples as `mmcl.data.write_shards` takes them, their files as they are.

        Args:
            root: the folder of the data set.
            tally: counts samples, and lists those that have lost a file.

        Raises:
            MmclError: a file is missing that the data set cannot do without, or none of its media is there.
        """
        self.check(root, survey(self, root)[0])
        for row in _rows(self, Folder(root, self.holds())):
            read = self._read(row, tally)
            if read is not None:
                if tally is not None:
                    tally.count("samples")
                yield read

    def check(self, root: Path, media: list[File]) -> None:
        """See that nothing is missing that the data set cannot do without.

        Args:
            root: the folder of the data set.
            media: all files that the annotations name.

        Raises:
            MmclError: a file is missing or empty and none may be, or all are.
        """
        missing = [file for file in media if not file.there()]
        if not missing or (self.loses and len(missing) < len(media)):
            return
        names = ", ".join(str(file.path.relative_to(root)) for file in missing[:SHOWN])
        more = ", ..." if len(missing) > SHOWN else ""
        raise MmclError(
            f"{root}: {len(missing)} of {len(media)} files that the annotations name are missing or empty: {names}"
            f"{more}. The folder holds {'; '.join(self.holds())}."
        )

    def _read(self, row: Row, tally: Tally | None) -> Row | None:
        """A row with its files read; None where one of them is lost."""
        read: Row = {}
        for name, value in row.items():
            if isinstance(value, File):
                if not value.there():  # counted, since `samples` has refused what may not be lost
                    if tally is not None:
                        tally.bad("the file is missing or empty", key=row["__key__"], file=str(value.path))
                    return None
                read[name] = value.read()
            else:
                read[name] = value.make() if isinstance(value, Later) else value
        return read


def survey(layout: Layout, root: Path) -> tuple[list[File], list[Path]]:
    """The media files that a layout's samples are made of, and the annotations that name them, each once.

    Raises:
        MmclError: an annotation is missing, or there are no samples.
    """
    folder, found, rows = Folder(root, layout.holds()), {}, 0
    for row in _rows(layout, folder):
        rows += 1
        found |= {value.path: value for value in row.values() if isinstance(value, File)}
    if not rows:
        raise MmclError(
            f"{root}: the annotations ({', '.join(path.name for path in folder.read)}) name no sample of this kind."
        )
    return list(found.values()), folder.read


def _rows(layout: Layout, folder: Folder) -> Iterator[Row]:
    """The rows; what a layout stumbles over in annotations of another form is said in words.

    Raises:
        MmclError: an annotation is missing, or is not what it should be.
    """
    try:
        yield from layout.rows(folder)
    except MmclError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        names = ", ".join(path.name for path in folder.read)
        raise MmclError(
            f"{folder.root}: {names}: these annotations are not of the form that is known ({type(error).__name__}: "
            f"{error}). The folder holds {'; '.join(folder.holds)}."
        ) from error


LAYOUTS: Registry[Layout] = Registry("layout")
LayoutPart = Annotated[SerializeAsAny[Part], PlainValidator(LAYOUTS.check)]
