"""Checks of arguments that need neither Keras nor a backend."""

import math
import numbers

import numpy as np


def is_number(value, low=-math.inf, high=math.inf):
    """Whether `value` is a finite number in `[low, high]`, and no boolean."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value) and low <= value <= high
    except OverflowError:  # an integer beyond all floats
        return False


def is_whole(value, low=1):
    """Whether `value` is a whole number of at least `low`."""
    return is_number(value, low) and int(value) == value


def check_seed(seed):
    """The integer `seed`, or a `ValueError` if it is none that NumPy takes."""
    if not is_whole(seed, low=0):
        raise ValueError(
            f"`seed` must be an integer of at least 0. Received: seed={seed!r}"
        )
    return int(seed)


def check_flag(name, value):
    """The boolean `value`, or a `ValueError` if it is none."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False. Received: {value!r}")
    return bool(value)


def check_no_mask(name, values):
    """Raises a `ValueError` of a masked array: all else sees its values alone."""
    if np.ma.is_masked(values):
        raise ValueError(
            f"`{name}` must be an array without a mask: what is masked would count as "
            "it is. Fill it, or leave these entries out."
        )


def check_choice(name, value, choices):
    """Raises a `ValueError` if `value` is not one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(map(repr, choices))
        raise ValueError(f"`{name}` must be one of {known}. Received: {value!r}")
