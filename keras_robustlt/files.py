"""Files that a kill or a full disk leaves whole: the old content, or the new.

What is read back is looked at before it is used: a damaged file is named.
"""

import contextlib
import csv
import errno
import io
import math
import os
import pathlib
import tempfile
import zipfile

__all__ = [
    "at_home",
    "local_path",
    "make_folder",
    "read_arrays",
    "read_rows",
    "refuse_other_than_file",
    "replacing",
    "write_atomically",
    "write_rows",
]

# Of the types that arrays in a file may have: numbers and texts.
KINDS = "biufU"


def local_path(argument, path):
    """`path` as an absolute path of this machine, `~` being the home directory."""
    if not isinstance(path, (str, os.PathLike)) or not str(path) or "\0" in str(path):
        raise ValueError(f"`{argument}` must be a path. Received: {path!r}")
    if str(path).startswith("{") and '"' in str(path):
        raise ValueError(
            f"`{argument}` must be the path of a file, such as the one that "
            "`to_json(path)` writes, and not what is in it. Received: JSON text, "
            f"{str(path)!r:.40}..."
        )
    if "://" in str(path):
        raise ValueError(
            f"`{argument}` must be a path of a file system: mount remote storage and "
            f"give the path there. Received: {str(path)!r}"
        )
    found = at_home(path)
    if str(found).startswith("~"):
        raise ValueError(
            f"`{argument}` must be a path, and there is no user whose home directory "
            f"is {found.parts[0]}; ./{found.parts[0]} is a folder of that name. "
            f"Received: {str(path)!r}"
        )
    return found.absolute()


def at_home(path):
    """`path` with the home directory for a `~`, and as it is for that of nobody."""
    return pathlib.Path(os.path.expanduser(path))


def make_folder(folder):
    """Makes the folder where it is not there, and sees that files can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            error.errno, f"Cannot write into the folder {folder}: {error.strerror}"
        ) from None


def refuse_other_than_file(path):
    """Raises if there is a folder, or a device, where a file is to be written."""
    if path.exists() and not path.is_file():
        number = errno.EISDIR if path.is_dir() else errno.EINVAL
        kind = "a folder" if path.is_dir() else "a device, or what else is no file,"
        raise OSError(number, f"Cannot write the file {path}: {kind} is in its place")


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
    refuse_other_than_file(path)
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
    # Names of folders need not be UTF-8.
    write_atomically(path, text.getvalue().encode("utf-8", "backslashreplace"))


def read_rows(path, before=None):
    """What `write_rows` wrote, of the epochs less than `before`.

    Args:
        path: Path of a CSV file, whose first column is the epoch. It need not be there.
        before: Integer, or `None` for all epochs. Defaults to `None`.

    Returns:
        The names of the columns after the first, and the rows: lists of an integer, the
        epoch, and as many strings as there are names. Both empty without a file.

    Raises:
        ValueError: If the file is damaged.
    """
    if before == 0 or not path.exists():
        return [], []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
        if not any(lines[:1]):
            raise ValueError("it has no first line")
        (first, *names), *rows = lines
        for number, row in enumerate(rows, 2):
            if len(row) != len(names) + 1:
                raise ValueError(f"line {number} has {len(row)} columns")
        rows = [[int(epoch), *values] for epoch, *values in rows]
        epochs = [epoch for epoch, *_ in rows]
        if first != "epoch" or epochs != sorted(set(epochs)):
            raise ValueError("the first column is not that of the epochs")
    except (csv.Error, ValueError) as error:
        raise damaged(path, error) from None
    return names, [row for row in rows if before is None or row[0] < before]


def read_arrays(path):
    """The arrays of numbers and texts in a file of `numpy.savez`, by name.

    The file decides neither what objects are made, nor that more memory is taken than
    it has bytes.

    Raises:
        ValueError: If the file is damaged.
    """
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ValueError("it is compressed")
                with archive.open(member) as file:
                    array = _read_array(file, member.file_size)
                arrays[member.filename.removesuffix(".npy")] = array
    except (EOFError, NotImplementedError, ValueError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from None
    return arrays


def _read_array(file, size):
    import numpy as np

    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(file)
    else:
        header = np.lib.format.read_array_header_2_0(file)
    shape, fortran_order, dtype = header
    if dtype.kind not in KINDS:
        raise ValueError(f"it has an array of type {dtype}")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError("an array has not as many bytes as it says")
    content = bytearray(file.read())  # and sees that the checksum is right
    order = "F" if fortran_order else "C"
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def damaged(path, error):
    """The `ValueError` to raise for a file that is not what was written."""
    return ValueError(
        f"{path} is damaged ({error}). Put a copy of it back, or delete it to start "
        "over without it."
    )
