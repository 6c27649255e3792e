"""Reads the pickle files of CIFAR without trusting them.

A pickle can name any function to be called while it is read, and NumPy takes the state
of an array from it as it comes, pointers included. So no function and no class of
NumPy or Python is handed to the pickle, only stand-ins that do nothing but keep what
they are given, and arrays are made afterwards, from plain bytes of the right number.
"""

import io
import math
import pickle
import pickletools
import re

import numpy as np

MAX_TUPLES = 1000  # The archives' files have about ten.
MAX_RANK = 8


def read_pickle(file):
    """The dictionary in `file`, a `pathlib.Path`: plain values and numeric arrays.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or holds anything else.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing. Unpack the official archive again."
        )
    content = file.read_bytes()
    try:
        _check_opcodes(content)
        record = _Unpickler(content).load()
        if type(record) is not dict:
            raise ValueError(f"it holds a {type(record).__name__}, no dictionary")
        return {key: _as_array(value) for key, value in record.items()}
    except Exception as error:
        # A damaged or hostile pickle can raise nearly anything.
        raise ValueError(
            f"{file} was refused: {error}. Only plain containers and arrays of numbers "
            "are read from pickle files. Get the archive from its official source."
        ) from error


def _check_opcodes(content):
    """Refuses what only makes the reader run out of memory or of stack."""
    num_tuples = 0
    previous = ""
    for opcode, argument, _ in pickletools.genops(content):
        if "PUT" in opcode.name or opcode.name == "MEMOIZE":
            if (argument or 0) > len(content):
                raise pickle.UnpicklingError(f"it wants {argument} places in memory")
            continue
        num_tuples += "TUPLE" in opcode.name
        # Arguments of a call nest in nothing. Python 3 writes each of ten thousand
        # file names as one.
        num_tuples -= opcode.name == "REDUCE" and "TUPLE" in previous
        previous = opcode.name
        if num_tuples > MAX_TUPLES:
            raise pickle.UnpicklingError("it nests too deeply")


class _Unpickler(pickle.Unpickler):
    def __init__(self, content):
        super().__init__(io.BytesIO(content), encoding="bytes")
        # Made anew for each file, as a pickle may set attributes of what it is given.
        self.stand_ins = _stand_ins()

    def find_class(self, module, name):
        if (module, name) not in self.stand_ins:
            raise pickle.UnpicklingError(f"it asks to load {module}.{name}")
        return self.stand_ins[module, name]


class _State:
    """What a pickle says of an array or of its dtype, not yet believed."""

    def __init__(self, arguments=()):
        self.arguments = arguments
        self.state = None

    def __setstate__(self, state):
        self.state = state


def _stand_ins():
    class Dtype(_State):
        pass

    class Array(_State):
        pass

    def encode(text, encoding):
        # `_codecs.encode` itself can also run decompressors.
        if encoding != "latin1":
            raise pickle.UnpicklingError("text in another encoding than latin1")
        return text.encode("latin1")

    def dtype(*arguments):
        return Dtype(arguments)

    def array(*arguments):
        return Array(arguments)

    return {
        ("numpy.core.multiarray", "_reconstruct"): array,
        ("numpy._core.multiarray", "_reconstruct"): array,
        ("numpy", "ndarray"): "ndarray",
        ("numpy", "dtype"): dtype,
        ("_codecs", "encode"): encode,
    }


def _as_array(value):
    """`value`, or the array that it describes."""
    if not isinstance(value, _State):
        return value
    if type(value.state) is not tuple or len(value.state) != 5:
        raise ValueError("it has an array without its data")
    _, shape, dtype, fortran_order, content = value.state
    dtype = _as_dtype(dtype)
    if type(content) is not bytes:
        raise ValueError("it has an array without its data")
    # No value of the pickle is shown: small ones can stand for endless text.
    if (
        type(shape) is not tuple
        or len(shape) > MAX_RANK
        or any(type(size) is not int or size < 0 for size in shape)
        or len(content) != math.prod(shape) * dtype.itemsize
    ):
        raise ValueError(
            f"the {len(content)} bytes of an array have not the shape that it claims"
        )
    order = "F" if fortran_order is True else "C"
    return np.frombuffer(content, dtype).reshape(shape, order=order).copy()


def _as_dtype(described):
    """A plain numeric dtype; no objects, no fields, no sizes of its own."""
    name, byte_order, structure = None, None, None
    if isinstance(described, _State) and type(described.state) is tuple:
        name = _text(described.arguments[0])
        byte_order, *structure = described.state[1:5]
        byte_order = _text(byte_order)
    if (
        structure != [None, None, None]
        or byte_order not in ("|", "<", ">", "=")
        or not re.fullmatch(r"[iu][1248]|f[248]", name)
    ):
        raise ValueError("it has an array of a dtype that is not a plain number")
    return np.dtype(name).newbyteorder(byte_order)


def _text(value):
    if isinstance(value, bytes):
        return value.decode("latin1")
    return value if isinstance(value, str) else ""
