"""Names of classes, of any script, as pictures, pages and tables show them."""

import collections
import math
import numbers
import os
import textwrap
import unicodedata

import numpy as np

__all__ = [
    "are_numbers",
    "as_text",
    "check",
    "check_different",
    "composed",
    "display_width",
    "ljust",
    "of_classes",
    "one_line",
    "rjust",
    "wrapped",
]


def check(value):
    """Raises if `value` is no list of names: how many there must be, others know."""
    if isinstance(value, (str, bytes, dict, set, type)) or not hasattr(
        value, "__len__"
    ):
        raise ValueError(
            "`class_names` must be a list of names, one a class, in the order of the "
            f"labels. Received: class_names={value!r:.200}"
        )
    if np.ndim(np.asarray(value, object)) != 1:
        raise ValueError(
            "`class_names` must be one list of names. Received: "
            f"class_names={value!r:.200}"
        )
    for name in value:
        _check_one(name)


def _check_one(name):
    """Raises if `name` is neither text nor the number of a class."""
    is_number = isinstance(name, numbers.Real) and not isinstance(name, bool)
    is_text = isinstance(name, (str, bytes, os.PathLike))
    if not (is_text or is_number and math.isfinite(name)):
        raise ValueError(
            "`class_names` must be strings, or numbers of classes. Received: "
            f"{name!r:.200} among them"
        )


def check_different(names):
    """Raises if of a list of strings one is there twice, or empty."""
    names = [composed(name) for name in names]
    counts = collections.Counter(names)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError(
            "`class_names` must be one name a class, all different. Received more than "
            f"once: {', '.join(map(repr, twice[:5]))}"
        )
    if not all(name.strip() for name in names):
        raise ValueError(f"`class_names` must not be empty. Received: {names}")


def of_classes(class_names, num_classes):
    """`class_names` as a list of strings; the indices of the classes without any."""
    names = range(num_classes) if class_names is None else class_names
    check(names)
    names = [as_text(name) for name in names]
    if len(names) != num_classes:
        raise ValueError(
            f"`class_names` must have {num_classes} names, as many as the network has "
            f"outputs. Received: {names!r}"
        )
    return names


def are_numbers(names):
    """Whether the names of classes are their numbers, as those without names have."""
    return list(names) == [str(index) for index in range(len(names))]


def as_text(name):
    """The name of a class, which need not be text or UTF-8, as text that is."""
    if not isinstance(name, bytes):
        name = str(name).encode("utf-8", "backslashreplace")
    return name.decode("utf-8", "backslashreplace")


def composed(name):
    """The text with its accents joined to their letters, as most programs write it.

    macOS and some archives keep them apart in the names of files: "é" as two letters.
    """
    return unicodedata.normalize("NFC", name)


def one_line(name):
    """The name without line breaks, its accents joined to their letters."""
    return " ".join(composed(as_text(name)).split())


def display_width(text):
    """How many columns of a terminal a line of text takes.

    Chinese letters and pictures take two, marks on other letters none.
    """
    return sum(map(_width, text))


def _width(letter):
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def ljust(text, width):
    """The text with spaces after it, up to the display width."""
    return text + " " * (width - display_width(text))


def rjust(text, width):
    """The text with spaces before it, up to the display width."""
    return " " * (width - display_width(text)) + text


def wrapped(text, most):
    """The lines of a text of about `most` columns at most."""
    text = one_line(text)
    letters = most * len(text) // max(display_width(text), 1)
    return textwrap.wrap(text, max(letters, 1)) or [""]
