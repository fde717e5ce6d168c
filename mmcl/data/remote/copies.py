"""Files of a folder, to and from a URL."""

from pathlib import Path

from mmcl.data.remote.failures import PATIENCE, MissingFileError, Patience, TransientError, explained, persist
from mmcl.data.remote.files import below, call, chunks, locate, look
from mmcl.files import replacing

SLOWEST = 1_000_000  # bytes a second; a file that takes longer to be sent is a failure


def names_below(url: str, patience: Patience = PATIENCE) -> set[str]:
    """Files below a folder behind a URL, by their paths in it; none where it is not there.

    Raises:
        MmclError: the server cannot be asked.
    """

    def attempt() -> set[str]:
        try:
            with explained(url, patience.timeout):
                system, folder = locate(f"{url.rstrip('/')}/")
                folder = f"{folder.rstrip('/')}/"
                names = {name.removeprefix(folder) for name in below(system, folder, timeout=patience.timeout)}
        except MissingFileError:
            return set()
        return {name for name in names if name and not name.endswith("/")}  # some stores have marks of folders

    return persist(attempt, url, patience)


def upload(file: Path, url: str, patience: Patience = PATIENCE) -> None:
    """Send a file; what is there under its name is replaced.

    Raises:
        MmclError: it cannot be written there, or cannot be read here.
    """
    system, path = locate(url)

    def attempt() -> None:
        timeout = patience.timeout + file.stat().st_size / SLOWEST
        with explained(url, timeout):
            if not system.async_impl:  # object stores know no folders
                call(system, "makedirs", path.rpartition("/")[0], exist_ok=True, timeout=timeout)
            call(system, "put_file", str(file), path, timeout=timeout)

    persist(attempt, url, patience)


def download(url: str, file: Path, patience: Patience = PATIENCE) -> None:
    """Fetch a file, which is whole or not there; what has arrived is kept from one attempt to the next.

    Raises:
        MmclError: it cannot be fetched.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as here:

        def attempt() -> None:
            begun = here.tell()
            try:
                there = look(url, patience.timeout)
                for position, data in chunks(there, begun, patience.timeout):
                    here.seek(position)
                    here.truncate()
                    here.write(data)
                if there.size is not None and here.tell() != there.size:
                    raise TransientError(f"{here.tell():,} of {there.size:,} bytes came")
            except TransientError as error:
                error.gained = here.tell() > begun
                raise

        persist(attempt, url, patience)


def remove(url: str, patience: Patience = PATIENCE) -> None:
    """Remove a file, which may be gone already.

    Raises:
        MmclError: it cannot be removed.
    """
    system, path = locate(url)

    def attempt() -> None:
        try:
            with explained(url, patience.timeout):
                call(system, "rm_file", path, timeout=patience.timeout)
        except MissingFileError:
            pass

    persist(attempt, url, patience)
