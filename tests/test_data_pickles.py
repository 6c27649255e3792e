import codecs
import pickle

import numpy as np
import pytest
from tiny_data import Reduced

from keras_robustlt.data.pickles import read_pickle

RECONSTRUCT = np.zeros(1).__reduce__()[0]  # Wherever it lives in this NumPy.
PLAIN = (3, "|", None, None, None, -1, -1, 0)


def dtype(name="u1", state=PLAIN):
    return Reduced(np.dtype, name, False, True, state=state)


def array(shape, dtype, content, version=1, fortran_order=False):
    """An array's pickle, of any state."""
    state = version, shape, dtype, fortran_order, content
    return Reduced(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)


@pytest.fixture
def read(tmp_path):
    def read(record, protocol=2):
        file = tmp_path / "payload"
        if not isinstance(record, bytes):
            record = pickle.dumps(record, protocol)
        file.write_bytes(record)
        return read_pickle(file)

    return read


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("name", ["u1", ">i4", "<f8", "i8"])
def test_arrays_come_back(read, protocol, name):
    stored = np.arange(6).reshape(2, 3).astype(name)
    record = {b"data": stored, b"turned": stored.T, b"labels": [1, 2], b"n": b"x"}
    record[b"filenames"] = [b"%d.png" % i for i in range(2000)]
    found = read(record, protocol)
    assert found[b"data"].dtype == stored.dtype
    assert (found[b"data"] == stored).all()
    assert (found[b"turned"] == stored.T).all()
    assert found[b"data"].flags.owndata or found[b"data"].base.flags.owndata
    assert (found[b"labels"], found[b"n"]) == ([1, 2], b"x")
    assert found[b"filenames"] == record[b"filenames"]


@pytest.mark.parametrize(
    "payload",
    [
        Reduced(eval, "1 + 1"),
        Reduced(getattr, "text", "upper"),
        Reduced(np.load, "file"),
        Reduced(np.zeros, 3),
        {b"data": Reduced(print, "nested")},
    ],
)
def test_nothing_else_is_loaded(read, payload):
    with pytest.raises(ValueError, match="was refused: it asks to load"):
        read(payload)


def test_codecs_are_latin1_only(read):
    with pytest.raises(ValueError, match="another encoding than latin1"):
        read(Reduced(codecs.encode, "text", "rot13"))


def fields(offset):
    """The state of a dtype of one byte at an offset of a record of one byte."""
    field = {"f": (dtype(), offset)}
    return (3, "|", None, ("f",), field, 1, 1, 0)


def endless():
    """A few bytes that stand for a text that no memory holds."""
    nested = ("x",)
    for _ in range(60):
        nested = (nested, nested)
    return nested


@pytest.mark.parametrize(
    "crafted",
    {
        "pointers": array((2,), dtype("O8"), b"A" * 16),
        "pointers, by one letter": array((2,), dtype("O"), b"A" * 16),
        "field beyond the element": array((4,), dtype("V1", fields(100000)), b"A" * 4),
        "field before the element": array((4,), dtype("V1", fields(-100000)), b"A" * 4),
        "fields in a plain dtype": array((4,), dtype("u1", fields(0)), b"A" * 4),
        "a dtype inside": array(
            (1,), dtype("u1", (3, "|", (dtype(), (9,)), None, None, -1, -1, 0)), b"A"
        ),
        "void": array((1,), dtype("V4"), b"AAAA"),
        "text": array((1,), dtype("U1"), b"AAAA"),
        "dates": array((1,), dtype("M8"), b"A" * 8),
        "odd width": array((1,), dtype("u3"), b"AAA"),
        "an odd byte order": array((1,), dtype("u1", (3, "O", *PLAIN[2:])), b"A"),
        "too few bytes": array((100,), dtype(), b"A"),
        "too many bytes": array((1,), dtype(), b"AA"),
        "negative sizes": array((-1, -2), dtype(), b"AA"),
        "a size that wraps around": array((2**32, 2**32), dtype(), b"A"),
        "no tuple": array([2], dtype(), b"AA"),
        "no integer": array((2.0,), dtype(), b"AA"),
        "a boolean": array((True,), dtype(), b"A"),
        "many dimensions": array((1,) * 100, dtype(), b"A"),
        "a list of objects": array((1,), dtype(), ["x"]),
        "no dtype": array((1,), "u1", b"A"),
        "a dtype without state": array((1,), Reduced(np.dtype, "u1"), b"A"),
        "an array for a dtype": array((1,), array((1,), dtype(), b"A"), b"A"),
        "no state": Reduced(RECONSTRUCT, np.ndarray, (0,), b"b"),
        "another state": Reduced(RECONSTRUCT, 1, state={"dtype": "O"}),
        "attributes": Reduced(RECONSTRUCT, 1, state=(None, {"__class__": 1})),
        "endless shape": array(endless(), dtype(), b"A"),
        "endless dtype": array((1,), endless(), b"A"),
        "endless name": array((1,), dtype(endless()), b"A"),
    }.items(),
    ids=lambda item: item[0],
)
def test_crafted_arrays_are_refused(read, crafted):
    with pytest.raises(ValueError, match="payload was refused: ") as raised:
        read({b"data": crafted[1]})
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "content",
    {
        "a place far away": b"\x80\x02}r\xff\xff\xff\x7f.",
        "a place far away, as text": b"}p99999999999\n.",
        "more bytes than there are": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.",
        "a long array of bytes": b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
        "deep tuples": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
        "deep tuples, kept": b"\x80\x04})" + b"\x85\x94" * 200_000 + b"K\x01s.",
        "no dictionary": pickle.dumps([1]),
        "an array alone": pickle.dumps(np.zeros(3), 2),
        "empty": b"",
        "text": b"<!DOCTYPE html>",
        "cut": pickle.dumps({b"data": b"x" * 100})[:50],
    }.items(),
    ids=lambda item: item[0],
)
def test_crafted_files_are_refused(read, content):
    with pytest.raises(ValueError, match="payload was refused: "):
        read(content[1])


def test_a_pickle_leaves_nothing_behind(read):
    """Attributes of what it is given are set by a pickle, and are gone with it."""
    name = RECONSTRUCT.__module__.encode()
    spoil = b"c" + name + b"\n_reconstruct\n(N}U\x0c__defaults__)\x85str0b"
    with pytest.raises(ValueError, match="was refused"):
        read(b"\x80\x02" + spoil + b".")
    assert (read({b"data": np.arange(3)})[b"data"] == np.arange(3)).all()
