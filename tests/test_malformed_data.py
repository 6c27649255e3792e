"""Malformed data and arguments: each is refused at once, in words that help."""

import pathlib

import keras
import numpy as np
import pytest
from PIL import Image
from tiny_data import write_folder

from keras_robustlt import data
from keras_robustlt.data import sources

GENERATOR = np.random.default_rng(0)
X = GENERATOR.integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
Y = np.arange(12) % 3
NAN = float("nan")


def source(x=X, y=Y, x_test=X, y_test=Y):
    return (x, y), (x_test, y_test)


def changed(array, value, dtype=float):
    array = array.astype(dtype)
    array.flat[5] = value
    return array


def refused(function, cases):
    """Parameters of a test, named by what is malformed."""
    return [
        pytest.param(function, arguments, message, id=name)
        for name, (arguments, message) in cases.items()
    ]


IMAGES = {
    "integers of 16 bits": (X.astype(np.uint16) * 257, "divide them by their largest"),
    "integers of 32 bits": (X.astype(np.int32), r"x_train.astype\('uint8'\)"),
    "negative integers": (X.astype(np.int32) - 9, "with values from -9 to"),
    "0 to 255 as floats": (X.astype(np.float32), "divide images in .* by 255"),
    "divided twice": (X / 255 / 255, "divided by 255 twice"),
    "normalised": (X / 127.5 - 1, "not normalised"),
    "not a number": (changed(X, NAN) / 255, "NaN or infinite pixels"),
    "infinite": (changed(X, np.inf), "NaN or infinite pixels"),
    "booleans": (X > 99, r"astype\('uint8'\) \* 255"),
    "complex": (X.astype(complex), "must be uint8, or floats"),
    "text": (X.astype(str), "must be uint8, or floats"),
    "objects": (X.astype(object), "must be uint8, or floats"),
    "channels first": (np.moveaxis(X, -1, 1), "must have its channels last"),
    "flat": (X.reshape(12, -1), "must have shape"),
    "one image": (X[0, 0, 0], "must have shape"),
    "volumes": (X[..., None], "must have shape"),
    "nothing": (X[:0], "Received: 0 images"),
    "no pixels": (X[:, :0], "at least one pixel"),
    "several sizes": ([X[0], X[1, :2]], "must be an array of images of one shape"),
    "None": (None, "must have shape"),
    "masked": (np.ma.masked_array(X, X > 9), "`x_train` must be an array without a"),
}
LABELS = {
    "one-hot": (np.eye(3)[Y], r"use y_train.argmax\(axis=-1\)"),
    "multi-hot": (np.ones((12, 3), int), "not several, and no soft labels"),
    "soft": (np.full((12, 3), 0.4), "not several, and no soft labels"),
    "names": (np.array(["a", "b", "c"])[Y], "np.unique"),
    "bytes": (np.array([b"a", b"b", b"c"])[Y], "np.unique"),
    "objects": (np.array(["a", None] * 6, object), "np.unique"),
    "booleans": (Y > 0, r"astype\('int64'\)"),
    "floats": (Y.astype(float), r"astype\('int64'\)"),
    "fractions": (changed(Y, 0.7), "no whole numbers, such as 0.7"),
    "not a number": (changed(Y, NAN), "NaN or infinite: leave those"),
    "negative": (Y - 1, "labels from 0.*-1"),
    "from 1": (Y + 1, r"Class 0 \(0\) has no training images"),
    "one class": (Y * 0, r"at least two classes. Received: \['0'\]"),
    "a gap": (Y * 2, r"Class 1 \(1\) has no training images"),
    "enormous": (changed(Y, 10**15, int), "without gaps.*1000000000000000"),
    "too few": (Y[:5], "12 images and 5 labels"),
    "too many": (np.tile(Y, 2), "12 images and 24 labels"),
    "one number": (3, "must have shape"),
    "rows of several lengths": ([[1], [1, 2]], "must be an array of one label an"),
}
SOURCES = {
    "None": (None, "`source` must be one of"),
    "empty text": ("", "`source` must be one of"),
    "a number": (10, "`source` must be one of"),
    "a dictionary": ({"x": X}, "`source` must be one of"),
    "one array": (X, "`source` must be one of"),
    "two arrays": ((X, Y), r"\(\(x_train, y_train\)"),
    "no arrays": ((), r"\(\(x_train, y_train\)"),
    "test labels beyond": (source(X, Y % 2), "0 to 1, for the 2 classes"),
    "test images of another size": (source(x_test=X[:, :2]), "must have one shape"),
    "test images of other channels": (source(x_test=X[..., :1]), "`color_mode` for"),
    "empty test set": (source(x_test=X[:0], y_test=Y[:0]), "`x_test` has no images"),
}
OPTIONS = {
    "color_mode": ({"color_mode": "gray"}, "one of 'auto', 'grayscale', 'rgb'"),
    "no color_mode": ({"color_mode": None}, "`color_mode` must be one of"),
    "on_bad": ({"on_bad": "ignore"}, "`on_bad` must be one of 'error', 'skip'"),
    "image_size 0": ({"image_size": 0}, "`image_size` must be a positive"),
    "a million pixels high": ({"image_size": (10**6, 10**6)}, "GB of memory. Pass a"),
    "three sizes": ({"image_size": (4, 4, 3)}, "`image_size` must be a positive"),
    "text for a size": ({"image_size": "big"}, "`image_size` must be a positive"),
    "half a pixel": ({"image_size": 4.5}, "`image_size` must be a positive"),
    "not a size": ({"image_size": NAN}, "`image_size` must be a positive"),
    "test_fraction of arrays": ({"test_fraction": 0.2}, "without test images of"),
    "negative seed": ({"seed": -1}, "`seed` must be an integer of at least 0"),
    "no seed": ({"seed": None}, "`seed` must be an integer of at least 0"),
    "a size in a list too many": ({"image_size": [[8, 8]]}, "must be a positive"),
    "a boolean for a side": ({"image_size": (True, 8)}, "must be a positive"),
    "half a seed": ({"seed": 0.5}, "`seed` must be an integer of at least 0"),
    "too many classes": ({"classes": 10**12}, "`classes` must be an integer from 2"),
    "one class": ({"classes": True}, "`classes` must be an integer from 2"),
    "a class twice": ({"classes": [0, 0]}, "`classes` must be an integer from 2"),
    "an unknown class": ({"classes": ["0", "x"]}, "`classes` must be an integer"),
    "classes in a list too many": ({"classes": [["0", "1"]]}, "`classes` must be an"),
    "ragged groups": ({"groups": [[1], [1, 2]]}, "`groups` must be an array of int"),
    "nested classes": ({"classes": [[0, 1], [2]]}, "`classes` must be an integer"),
    "short groups": ({"groups": [1, 2]}, r"of shape \(12,\). Received: shape \(2,\)"),
    "groups of floats": ({"groups": Y / 2}, "`groups` must be integers or strings"),
    "a folder for arrays": ({"data_dir": "."}, "`data_dir` is where to look for"),
    "no folder": ({"data_dir": 3}, "`data_dir` must be the path of a folder"),
    "a seed beyond": ({"seed": 10**400}, "`seed` must be an integer"),
    "a function of arrays": ({"groups": str}, "a function for folders of images only"),
}
LONG_TAIL = {
    "ratio below 1": ({"imbalance_ratio": 0.5}, "`imbalance_ratio` .* at least 1"),
    "ratio of text": ({"imbalance_ratio": "50"}, "`imbalance_ratio`"),
    "infinite ratio": ({"imbalance_ratio": np.inf}, "`imbalance_ratio`"),
    "ratio beyond": ({"imbalance_ratio": 50}, "would keep 0 .* at most 4"),
    "type": ({"imbalance_ratio": 2, "imbalance_type": "lin"}, "one of 'exp', 'step'"),
    "type of none": ({"imbalance_type": "lin"}, "`imbalance_type` must be one of"),
    "type as a number": ({"imbalance_type": 3}, "`imbalance_type` must be one of"),
    "ratio beyond all floats": ({"imbalance_ratio": 10**400}, "`imbalance_ratio`"),
    "validation of all": ({"validation_fraction": 1}, "`validation_fraction` must"),
    "not a fraction": ({"validation_fraction": NAN}, "`validation_fraction` must"),
    "one image": (
        {"imbalance_ratio": 1, "largest_class": 1, "validation_fraction": 0.2},
        "none can be held out for validation. Pass validation_fraction=0",
    ),
    "percent": ({"validation_fraction": 20}, "`validation_fraction` must be in"),
    "text": ({"validation_fraction": "0.2"}, "`validation_fraction` must be in"),
    "no largest": (
        {"imbalance_ratio": 2, "largest_class": 0},
        "`largest_class` must be",
    ),
    "half": ({"imbalance_ratio": 2, "largest_class": 3.5}, "`largest_class` must be"),
    "more than there are": ({"imbalance_ratio": 2, "largest_class": 9}, "asks for"),
    "type alone": ({"imbalance_type": "step"}, "so does `imbalance_type`"),
    "largest alone": ({"largest_class": 3}, "`largest_class` goes with"),
}
PIPELINE = {
    "batch of text": ({"batch_size": "4"}, "`batch_size` must be a positive"),
    "half a batch": ({"batch_size": 4.5}, "`batch_size` must be a positive"),
    "no batch": ({"batch_size": None}, "`batch_size` must be a positive"),
    "endless batch": ({"batch_size": np.inf}, "`batch_size` must be a positive"),
    "augmentation": ({"augmentation": None}, "must be one of none, base"),
    "a class": ({"augmentation": keras.layers.RandomFlip}, "an object, not its class"),
    "an array": ({"augmentation": np.ones(2)}, "must be one of none, base"),
    "seed": ({"seed": "x"}, "`seed` must be an integer"),
    "large seed": ({"seed": 2**70}, "`seed` must be an integer of 64 bits"),
    "shuffle": ({"shuffle": "yes"}, "`shuffle` must be True or False"),
    "shuffle by number": ({"shuffle": 100}, "`shuffle` must be True or False"),
    "balanced_sampling": ({"balanced_sampling": 1}, "must be True or False"),
    "batch beyond": ({"batch_size": 2**63}, "`batch_size` must be a positive"),
    "classes beyond": ({"num_classes": 10**12}, "above every label, and at most"),
    "few classes": ({"num_classes": 2}, "`num_classes` must be .* a label 2"),
    "shard of one": ({"shard": 2}, r"`shard` must be \(index, count\)"),
    "shard beyond": ({"shard": (2, 2)}, "from 0 to count - 1"),
    "shards in lists": ({"shard": (1, [2])}, "from 0 to count - 1"),
    "halves of shards": ({"shard": (0.5, 2)}, "from 0 to count - 1"),
    "labels": ({"labels": Y / 2}, "`labels` must be integers"),
}
INDICES = {
    "counts of text": ({"class_counts": ["a"]}, "`class_counts` must be a list"),
    "half an image": ({"class_counts": [1.5, 1, 1]}, "`class_counts` must be a list"),
    "a table of counts": ({"class_counts": [[1], [1]]}, "`class_counts` must be"),
    "one number": ({"class_counts": 3}, "`class_counts` must be a list"),
    "no image": ({"class_counts": [1, 0, 1]}, r"class_counts\[1\]=0"),
    "a class too few": ({"class_counts": [1, 1]}, "has only 2 classes"),
    "a class too many": ({"class_counts": [1, 1, 1, 1]}, "Class 3 has no images"),
    "seed": ({"seed": None}, "`seed` must be"),
    "labels": ({"labels": ["a"] * 12}, "`labels` must be integers"),
    "no labels": ({"labels": Y[:0]}, "`labels` must not be empty"),
    "counts beyond": ({"class_counts": [1e30, 1, 1]}, r"whole numbers.*\[1e\+30"),
    "ragged counts": ({"class_counts": [[1], [1, 2]]}, "`class_counts` must be an arr"),
    "groups": ({"groups": [1]}, "`groups` must be integers or strings"),
}


@pytest.mark.parametrize(
    "function, arguments, message",
    [
        *refused(lambda x: data.load(source(x=x)), IMAGES),
        *refused(lambda y: data.load(source(y=y)), LABELS),
        *refused(data.load, SOURCES),
        *refused(lambda options: data.load(source(), **options), OPTIONS),
        *refused(
            lambda options: data.long_tail_arrays(
                source(), **{"imbalance_ratio": None, **options}
            ),
            LONG_TAIL,
        ),
        *refused(
            lambda options: data.pipeline(
                **{"images": X, "labels": Y, "batch_size": 4, **options}
            ),
            PIPELINE,
        ),
        *refused(
            lambda options: data.long_tail_indices(
                **{"labels": Y, "class_counts": None, "seed": 1, **options}
            ),
            INDICES,
        ),
    ],
)
def test_malformed(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(arguments)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"batch_size": "4", "shard": (0, 2)}, "`batch_size` must be"),
        ({"shard": (3, 2)}, "`shard` must be"),
        ({"drop_remainder": "yes"}, "`drop_remainder` must be"),
        ({"balanced_sampling": 1}, "`balanced_sampling` must be"),
        ({"seed": 2**64}, "`seed` must be"),
        ({"imbalance_ratio": "50"}, "`imbalance_ratio`"),
        ({"imbalance_type": "lin"}, "`imbalance_type` must be"),
        ({"test_fraction": 2}, "`test_fraction` must be"),
        ({"augmentation": np.ones(2)}, "`augmentation` must be"),
    ],
)
def test_arguments_are_looked_at_before_the_data(monkeypatch, options, message):
    def read(*arguments, **options):
        raise AssertionError("the data were read")

    monkeypatch.setattr(sources, "find_folder", read)
    with pytest.raises(ValueError, match=message):
        data.long_tail(source(), **options)


@pytest.mark.parametrize("seed", [5.0, np.float32(5), np.int64(5)])
def test_seeds_are_whole_numbers_of_any_kind(seed):
    expected, found = data.load("digits", seed=5), data.load("digits", seed=seed)
    assert (expected.x_test == found.x_test).all()
    expected = data.long_tail_indices(Y, None, 5)
    assert (expected[0] == data.long_tail_indices(Y, None, seed)[0]).all()


def test_images_a_rounding_error_beyond_1():
    x = np.float32(X / 255) * np.float32(1 + 3e-7)
    assert (data.load(source(x)).x_train == X).all()


def test_long_tails_beyond_all_data():
    with pytest.raises(ValueError, match="`largest` must be"):
        data.long_tail_counts(10**20, 10, 50)


def test_black_images_are_warned_about():
    with pytest.warns(UserWarning, match="all its images are black"):
        data.load(source(x=X % 2))


# Folders and files


def a_file(root):
    (root / "data.zip").write_bytes(b"PK")
    return root / "data.zip"


def an_image(root):
    Image.fromarray(X[0]).save(root / "image.png")
    return root / "image.png"


def nothing(root):
    return root / "nowhere"


def empty(root):
    return root


def one_class(root):
    write_folder(root, X, classes=("only",))
    return root


def wrapped(root):
    write_folder(root / "archive", X)
    return root


def flat(root):
    Image.fromarray(X[0]).save(root / "image.png")
    return root


def empty_class(root):
    write_folder(root, X)
    (root / "cow").mkdir()
    return root


def one_image(root):
    write_folder(root, X[:3])
    return root


def other_classes(root):
    write_folder(root / "train", X)
    write_folder(root / "test", X, classes=("Ant", "Bee"))
    return root


def no_training_part(root):
    write_folder(root / "validation", X)
    write_folder(root / "test", X)
    return root


def no_test_part(root):
    write_folder(root / "Train", X)
    return root


def parts_in_classes(root):
    for name in ("ant", "bee"):
        write_folder(root / name, X, classes=("training", "testing"))
    return root


def two_sizes(root):
    write_folder(root, [*X, X[0, :2]])
    return root


def all_bad(root):
    write_folder(root, X)
    for file in root.rglob("*.png"):
        file.write_bytes(b"")
    return root


def one_name_written_twice(root):
    write_folder(root, X, classes=("caf\u00e9", "cafe\u0301"))
    return root


def npz_of_one_name_written_twice(root):
    names = ["caf\u00e9", "cafe\u0301", "tea"]
    arrays = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}
    np.savez(root / "x.npz", class_names=names, **arrays)
    return root / "x.npz"


def not_utf8(root):
    write_folder(root, X)
    (root / "ant").rename(pathlib.Path(str(root), "ant\udcff"))
    return root


def blank(root):
    write_folder(root, X, classes=(" ", "ant"))
    return root


def npz_of_text(root):
    (root / "x.npz").write_text("x_train,y_train")
    return root / "x.npz"


def npz_of_one_array(root):
    with open(root / "x.npz", "wb") as file:
        np.save(file, X)
    return root / "x.npz"


def npz_with_other_keys(root):
    np.savez(root / "x.npz", images=X, labels=Y)
    return root / "x.npz"


def npz_with_two_names_of_one(root):
    arrays = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}
    np.savez(root / "x.npz", train_images=X, **arrays)
    return root / "x.npz"


def npz_cut(root):
    np.savez(root / "x.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    content = (root / "x.npz").read_bytes()
    (root / "x.npz").write_bytes(content[: len(content) // 2])
    return root / "x.npz"


def npz_spoilt(root):
    np.savez(root / "x.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    content = bytearray((root / "x.npz").read_bytes())
    content[300:310] = b"x" * 10
    (root / "x.npz").write_bytes(content)
    return root / "x.npz"


@pytest.mark.parametrize(
    "write, message",
    [
        (a_file, "data.zip', which is a file, and not .npz"),
        (an_image, "pass the folder of an image file"),
        (nothing, "nowhere', and no file or folder is there"),
        (empty, r"at least two. Found: \[\]"),
        (one_class, r"at least two. Found: \['only'\]"),
        (wrapped, r"Found: \['archive'\] \(with 2 folders inside that\)"),
        (flat, "must have one sub-folder of images a class"),
        (empty_class, "without images in a format.*\\s+- .*cow"),
        (one_image, "Class 'bee' has one image"),
        (other_classes, "Only one of them has: Ant, Bee, ant, bee"),
        (no_training_part, "and no folder `train`"),
        (no_test_part, "has a folder `Train` but neither `test` nor `val`"),
        (parts_in_classes, "Parts of the data come first"),
        (two_sizes, "Pass `image_size` to resize them"),
        (all_bad, "12 of 12 files cannot be read as images"),
        (one_name_written_twice, r"the same but for .*'cafe\\u0301', 'caf\\xe9'"),
        (npz_of_one_name_written_twice, "all different. Received more than once"),
        (npz_with_two_names_of_one, "it has x_train and train_images"),
        (not_utf8, "must be text in UTF-8"),
        (blank, "`class_names` must not be empty"),
        (npz_of_text, "x.npz cannot be used: File is not a zip file"),
        (npz_of_one_array, "x.npz cannot be used"),
        (npz_with_other_keys, r"lacks x_train, .* \(it has images, labels\)"),
        (npz_cut, "x.npz cannot be used"),
        (npz_spoilt, "x.npz cannot be used: Bad CRC-32"),
    ],
)
def test_malformed_files(tmp_path, write, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.load(write(tmp_path))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"test_fraction": 0}, "`test_fraction` must be between 0 and 1"),
        ({"test_fraction": 1}, "`test_fraction` must be between 0 and 1"),
        ({"test_fraction": "0.2"}, "`test_fraction` must be between 0 and 1"),
        ({"test_fraction": NAN}, "`test_fraction` must be between 0 and 1"),
        ({"groups": [1] * 12}, "`groups` must be a function from the"),
        ({"data_dir": "."}, "a path has its folder in itself"),
        ({"image_size": 10**6}, "GB of memory. Pass a smaller `image_size`"),
        ({"classes": ["ant", "cow"]}, "such as 'ant', 'bee'"),
    ],
)
def test_options_of_folders(tmp_path, options, message):
    write_folder(tmp_path, X)
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path, **options)


def test_names_are_the_same_however_accents_are_written(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    write_folder(tmp_path / "train", X, classes=(composed, "tea"))
    write_folder(tmp_path / "test", X[:, ::-1], classes=(apart, "tea"))
    found = data.load(tmp_path, classes=["tea", apart])
    assert found.class_names == ("tea", composed)
    assert found.y_test.tolist() == [0] * 6 + [1] * 6


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 6, 8), (13, 16, 16)])
def test_channels_that_seem_to_come_first(shape):
    with pytest.warns(UserWarning, match="channels last, and looks as if"):
        images = np.zeros((12, *shape), "uint8")
        data.load(source(images, x_test=images))


@pytest.mark.parametrize("shape", [(4, 4, 13), (2, 128, 9), (9, 9, 200), (4, 4, 4)])
def test_images_of_many_channels(shape):
    images = np.zeros((12, *shape), "uint8")
    assert data.load(source(images, x_test=images)).x_train.shape[1:] == shape


def test_arrays_that_are_not_read(tmp_path):
    arrays = {"x_train": X, "y_train": Y, "x_test": X[:, ::-1], "y_test": Y}
    more = {"x_valid": X[:, :, ::-1], "y_valid": Y, "groups": Y}
    np.savez(tmp_path / "x.npz", **arrays, **more)
    checked = data.check(tmp_path / "x.npz")
    assert "validation" in checked.class_counts
    assert [each["where"] for each in checked.of("note")] == [["groups"]]


def test_an_enormous_size_is_no_good_check(tmp_path):
    write_folder(tmp_path, X)
    (finding,) = data.check(tmp_path, image_size=10**6).of("error")
    assert "GB of memory" in finding["message"]


def test_a_list_of_words_makes_no_tiny_imagenet(tmp_path):
    write_folder(tmp_path, X)
    (tmp_path / "wnids.txt").write_text("ant")
    assert data.load(tmp_path).class_names == ("ant", "bee")


def test_test_fraction_of_a_folder_with_a_test_set(tmp_path):
    write_folder(tmp_path / "train", X[:8])
    write_folder(tmp_path / "test", X[8:])
    with pytest.raises(ValueError, match="test_fraction=0.2, and there are test"):
        data.load(tmp_path, test_fraction=0.2)
