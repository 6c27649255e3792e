"""Files that a kill or a full disk leaves whole: the old content, or the new."""

import contextlib
import csv
import io
import os
import pathlib

__all__ = ["read_rows", "replacing", "write_atomically", "write_rows"]


@contextlib.contextmanager
def replacing(path):
    """A file to write to, which in the end takes the place of the one at `path`.

    Args:
        path: String or path. Its folder is made if it is not there.

    Yields:
        A binary file.

    Raises:
        OSError: If writing fails. What was at `path` is then as it was.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OSError(
            error.errno,
            f"Could not write {path}: {error.strerror}. What was there before is as "
            "it was",
        ) from None


def write_atomically(path, content):
    """Replaces the file at `path` by the bytes `content` in one operation."""
    with replacing(path) as file:
        file.write(content)


def write_rows(path, rows):
    """Replaces the CSV file at `path`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue().encode())


def read_rows(path, before=None, header=False):
    """Rows of a CSV file whose first column, the epoch, is less than `before`."""
    if path is None or not path.exists() or before == 0:
        return []
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    kept = [row for row in rows if before is None or int(row[0]) < before]
    return [head, *kept] if header else kept
