"""Types of the flags of the commands: numbers within bounds, which NaN is never."""

import math
import re

from absl import flags

# What the package calls what a flag of another name sets.
OTHER_NAMES = {"classes": "num_classes", "source": "data"}
# A trained network, and not the name that the flag wants.
NO_FLAGS = ("model",)
# Flags that have a word for None, which is not what they are if left alone.
WITH_NONE = ("weights", "backbone_weights")
# An argument as messages name it, `image_size`, and with its value, on_bad='skip'; no
# part of a path, such as runs/seed=2.
ARGUMENT = re.compile(r"`(\w+)`|(?<![-\w.`/\\])(\w+)=('[^']*'|[\w.]*\w)(?![\w(/\\])")
# Backends count in 32 bits here and there.
MOST = 2**31 - 1
# Objects as Python shows them, RobustLT(alpha=0.3, beta=0.6), and flags with what they
# are given, --method_options=beta=5, stay as they are.
OBJECT = re.compile(r"(\w\([^()]*\)|--\w+=\S+)")


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
        if not (abs(value) < math.inf and self.fits(value)):
            raise ValueError(f"it must be {self.expected}.")
        return value

    def flag_type(self):
        return "number"


class Whole(Number):
    """A whole number that counts something.

    Args:
        least: Integer, the smallest that is meant.
    """

    def __init__(self, least):
        expected = f"a whole number of at least {least}"
        super().__init__(int, expected, lambda value: value >= least)

    def parse(self, argument):
        value = super().parse(argument)
        if value > MOST:
            raise ValueError(f"it must be a whole number of at most {MOST}.")
        return value


def fraction(text):
    """The number of a text such as "0.03" or "8/255"."""
    if not isinstance(text, str):
        return float(text)
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(numerator)


def in_words_of_flags(text, values):
    """A message of the package, to somebody who gave flags and no arguments.

    Args:
        text: String.
        values: The `absl.flags.FlagValues`, whose flags are meant.

    Returns:
        A string.
    """
    parts = OBJECT.split(text)
    parts[::2] = [ARGUMENT.sub(lambda m: _flag(m, values), part) for part in parts[::2]]
    return "".join(parts)


def _flag(match, values):
    alone, name, value = match.groups()
    flag = alone or name
    flag = flag if flag in values else OTHER_NAMES.get(flag)
    if flag not in values or flag in NO_FLAGS:
        return match[0]
    if alone:
        return f"--{flag}"
    if value == "None" and flag in WITH_NONE:
        return f"--{flag}=none"
    if value in ("None", "False"):
        return f"no --{flag}"
    return f"--{flag}" if value == "True" else f"--{flag}={value.strip(chr(39))}"


COUNT = Whole(1)
WHOLE = Whole(0)
CLASSES = Whole(2)
SEED = Number(int, "a whole number from 0 to 4294967295", lambda v: 0 <= v < 2**32)
SEED_OF_A_RUN = Number(
    int, f"a whole number from 0 to {MOST}", lambda value: 0 <= value <= MOST
)
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
