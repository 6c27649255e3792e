"""Types of the flags of the commands: numbers within bounds, which NaN is never."""

import math

from absl import flags


class Number(flags.ArgumentParser):
    """A finite number.

    Args:
        kind: Function that makes the number of a text, or raises a ValueError.
        expected: String: which numbers are meant, in words.
        fits: Function of a number: whether it is one of them.
    """

    def __init__(self, kind, expected, fits):
        self.kind, self.expected, self.fits = kind, expected, fits
        self.syntactic_help = expected

    def parse(self, argument):
        try:
            value = self.kind(argument)
        except (ValueError, ZeroDivisionError):
            value = math.nan
        if not (math.isfinite(value) and self.fits(value)):
            raise ValueError(f"it must be {self.expected}.")
        return value

    def flag_type(self):
        return "number"


def fraction(text):
    """The number of a text such as "0.03" or "8/255"."""
    if not isinstance(text, str):
        return float(text)
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(numerator)


COUNT = Number(int, "a whole number of at least 1", lambda value: value >= 1)
CLASSES = Number(int, "a whole number of at least 2", lambda value: value >= 2)
SEED = Number(int, "a whole number from 0 to 4294967295", lambda v: 0 <= v < 2**32)
POSITIVE = Number(float, "a number above 0", lambda value: value > 0)
NOT_NEGATIVE = Number(float, "a number of at least 0", lambda value: value >= 0)
RATIO = Number(float, "a number of at least 1", lambda value: value >= 1)
SHARE = Number(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
PART = Number(float, "a number of at least 0 and below 1", lambda v: 0 <= v < 1)
EPSILON = Number(
    fraction,
    "a number from 0 to 1, as pixels are, such as 8/255 or 0.03",
    lambda value: 0 <= value <= 1,
)


def define_number(values, kind, name, default, help):
    """Defines a flag in `values`, an `absl.flags.FlagValues`.

    Args:
        values: The `FlagValues`.
        kind: A `Number`.
        name: String.
        default: Number or `None`.
        help: String.
    """
    serializer = flags.ArgumentSerializer()
    flags.DEFINE(kind, name, default, help, flag_values=values, serializer=serializer)
