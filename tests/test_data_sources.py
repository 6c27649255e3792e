import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from tiny_data import (
    WNIDS,
    Reduced,
    write_cifar10,
    write_cifar100,
    write_folder,
    write_imagenet64,
    write_tiny_imagenet,
)

from keras_robustlt.data import check, long_tail_arrays, prepared
from keras_robustlt.data.sources import load

GENERATOR = np.random.default_rng(0)
X = GENERATOR.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
Y = np.arange(12) % 3


# Arrays


def test_arrays_pass_unchanged():
    found = load(((X, Y), (X[:6], Y[:6])))
    assert found.x_train is X
    assert found.y_train.dtype == np.int64
    assert found.class_names == ("0", "1", "2")
    assert len(found.x_test) == 6


def test_another_long_tail_of_imbalanced_data_is_said():
    y = np.repeat([0, 1, 2], [60, 150, 50])
    x = np.zeros((len(y), 4, 4, 1), np.uint8)
    with pytest.warns(UserWarning, match="imbalanced already.*keeps every image"):
        found = long_tail_arrays(((x, y), (x, y)))
    assert found.class_counts.tolist() == [50, 7, 1]
    found = long_tail_arrays(((x, y), (x, y)), imbalance_ratio=None)
    assert found.class_counts.tolist() == [60, 150, 50]


def test_floats_are_stored_as_uint8():
    as_float = X.astype(np.float32) / 255
    found = load(((as_float, Y), (as_float, Y)))
    assert (found.x_train == X).all()


def test_gray_images_and_column_labels():
    found = load(((X[..., 0], Y[:, None]), (X[..., 0], Y[:, None])))
    assert found.x_train.shape == (12, 6, 5, 1)
    assert (found.y_train == Y).all()


def test_resize():
    found = load(((X, Y), (X, Y)), image_size=(3, 4))
    assert found.x_train.shape == (12, 3, 4, 3)
    flat = np.full((2, 6, 6, 2), 77, np.uint8)
    found = load(((flat, [0, 1]), (flat, [0, 1])), image_size=3)
    assert (found.x_test == 77).all()


def with_nan():
    x = X / 255
    x[7, 0, 0, 0] = np.nan
    return x


@pytest.mark.parametrize(
    "x, y, message",
    [
        (X.astype(np.int32), Y, r"x_train.dtype=int32; .*astype\('uint8'\)"),
        (X.astype(np.float32), Y, r"from 0 to 255; divide .* by 255"),
        (X / 255 - 0.5, Y, "not normalised"),
        (with_nan(), Y, "NaN .* image 7"),
        (np.moveaxis(X, -1, 1), Y, "channels last.*moveaxis"),
        (X.reshape(12, -1), Y, "must have shape"),
        (X, Y[:5], "12 images and 5 labels"),
        (X, Y.astype(float), "must be integers.*astype"),
        (X, np.eye(3)[Y], "one-hot.*argmax"),
        (X, Y - 1, "labels from 0.*-1"),
        (X, np.where(Y == 1, 3, Y), r"Class 1 \(1\) has no training images"),
        (X[:0], Y[:0], "`x_train` has no images"),
    ],
)
def test_arrays_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        load(((x, y), (X, Y)))


def test_test_set_must_match():
    with pytest.raises(ValueError, match="0 to 1, for the 2 classes.*a label 2"):
        load(((X[Y < 2], Y[Y < 2]), (X, Y)))
    with pytest.raises(ValueError, match="must have one shape"):
        load(((X, Y), (X[:, :4], Y)))
    with pytest.raises(ValueError, match=r"\(\(x_train, y_train\)"):
        load((X, Y))


# A part of the classes


@pytest.mark.parametrize(
    "classes, kept", [(2, [0, 1]), ([2, 0], [2, 0]), (["2", "1"], [2, 1])]
)
def test_classes(classes, kept):
    found = load(((X, Y), (X[:6], Y[:6])), classes=classes)
    assert found.class_names == tuple(map(str, kept))
    assert found.y_train.tolist() == [kept.index(y) for y in Y if y in kept]
    for new, old in enumerate(kept):
        assert (found.x_train[found.y_train == new] == X[Y == old]).all()
        assert (found.x_test[found.y_test == new] == X[:6][Y[:6] == old]).all()


@pytest.mark.parametrize("classes", [1, 4, 2.0, "0", ["0", "cow"], [0, 3], [1, 1], [2]])
def test_classes_refused(classes):
    with pytest.raises(ValueError, match="from 2 to 3 .*'0', '1'.*Received: classes="):
        load(((X, Y), (X, Y)), classes=classes)


# Digits


def test_digits():
    found = load("digits", seed=1)
    assert found.x_train.shape == (1197, 8, 8, 1)
    assert np.bincount(found.y_test).tolist() == [60] * 10
    assert np.bincount(found.y_train).min() == 114
    assert found.x_train.max() == 255
    again, other = load("digits", seed=1), load("digits", seed=2)
    assert (found.x_test == again.x_test).all()
    assert not (found.x_test == other.x_test).all()


# Named data sets in a folder


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar_python_folder(tmp_path, protocol):
    x, y = write_cifar10(tmp_path, protocol=protocol)
    found = load("cifar10", data_dir=tmp_path)
    assert (found.x_train == x).all()
    assert (found.y_train == y).all()
    assert found.class_names[9] == "name9"
    assert found.name == "cifar10"


def test_malicious_pickle_is_refused_and_not_run(tmp_path):
    victim = tmp_path / "was-run"
    write_cifar10(tmp_path, Reduced(os.system, f"touch {victim}"))
    with pytest.raises(ValueError, match="data_batch_3 was refused.*system"):
        load("cifar10", data_dir=tmp_path)
    assert not victim.exists()


def test_damaged_cifar_folder(tmp_path):
    write_cifar10(tmp_path, {b"labels": [0]})
    with pytest.raises(ValueError, match="does not hold what the official cifar10"):
        load("cifar10", data_dir=tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    batch.write_bytes(b"garbage")
    with pytest.raises(ValueError, match="data_batch_3 was refused"):
        load("cifar10", data_dir=tmp_path)
    batch.unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3 is missing"):
        load("cifar10", data_dir=tmp_path)


def test_cifar100_takes_the_fine_labels(tmp_path):
    write_cifar100(tmp_path)
    found = load("cifar100", data_dir=tmp_path)
    assert found.num_classes == 100
    assert found.y_train.tolist() == list(range(100))
    assert load("cifar100", data_dir=tmp_path, classes=3).class_names[2] == "fine2"


def test_named_npz(tmp_path):
    x, y = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 10
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    np.savez(tmp_path / "cifar10.npz", class_names=list("abcdefghij"), **arrays)
    found = load("cifar10", data_dir=tmp_path)
    assert (found.x_train == x).all()
    assert found.class_names == tuple("abcdefghij")


@pytest.mark.parametrize(
    "name, size, classes",
    [
        ("cifar10", (32, 32, 3), 100),
        ("cifar10", (28, 28), 10),
        ("cifar100", (32, 32, 3), 20),  # the coarse labels
        ("mnist", (28, 28, 3), 10),
    ],
)
def test_named_npz_of_other_data(tmp_path, name, size, classes):
    x, y = np.zeros((classes, *size), np.uint8), np.arange(classes)
    np.savez(tmp_path / f"{name}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    received = f"{name} must have .* Received: images of shape .* {classes} classes"
    with pytest.raises(ValueError, match=received):
        load(name, data_dir=tmp_path)


def test_cifar_folder_of_images_that_are_not_flat(tmp_path):
    record = {b"data": np.zeros((4, 32, 32, 3), np.uint8), b"labels": [0, 1, 2, 3]}
    write_cifar10(tmp_path, record)
    with pytest.raises(ValueError, match=r"the shape \(4, 32, 32, 3\), not \(n, 3072"):
        load("cifar10", data_dir=tmp_path)


def test_a_folder_that_is_called_like_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "digits", X)
    with pytest.warns(UserWarning, match="give it as ./digits"):
        assert load("digits").num_classes == 10
    (finding,) = check("digits").of("warning")
    assert "give it as ./digits" in finding["message"]
    assert load("./digits").num_classes == 2


@pytest.mark.tensorflow
def test_tfds_comes_back_in_official_order(tmp_path):
    tf = pytest.importorskip("tensorflow")
    tfds = pytest.importorskip("tensorflow_datasets")
    x = GENERATOR.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    y = np.arange(30) % 10
    features = tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(names=[f"name{i}" for i in range(10)]),
        }
    )

    def split(name):
        ids = [f"{name}_{i:05d}" for i in range(30)]
        rows = {"id": ids, "image": x, "label": y}
        return tf.data.Dataset.from_tensor_slices(rows)

    tfds.dataset_builders.store_as_tfds_dataset(
        name="cifar10",
        version="3.0.2",
        features=features,
        data_dir=tmp_path,
        split_datasets={name: split(name) for name in ("train", "test")},
    )
    found = load("cifar10", data_dir=tmp_path)
    assert (found.x_train == x).all()
    assert (found.y_test == y).all()
    assert found.class_names[3] == "name3"


def test_missing_data_say_where_they_were_looked_for(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as raised:
        load("cifar100", data_dir=tmp_path, download=False)
    for part in (
        str(tmp_path / "cifar100"),
        str(tmp_path / "cifar-100-python"),
        str(tmp_path / "cifar100.npz"),
        "download=False",
        "data_dir='DIR'",
    ):
        assert part in str(raised.value)

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(prepared.urllib.request, "urlopen", no_network)
    with pytest.raises(FileNotFoundError, match="no route to host"):
        load("cifar100", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_data_dir(tmp_path):
    for name in ("cifar10", "tinyimagenet", "imagenet64"):
        with pytest.raises(FileNotFoundError, match=f"There is no .*nowhere.*{name}"):
            load(name, data_dir=tmp_path / "nowhere")


def test_unknown_source():
    with pytest.raises(FileNotFoundError, match="'digits'.*Received: source='cifar11'"):
        load("cifar11")


# Tiny-ImageNet


def sort_into_class_folders(val, deeper):
    """What a usual script does to the images of `val`."""
    for line in (val / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        folder = val / wnid / "images" if deeper else val / wnid
        folder.mkdir(parents=True, exist_ok=True)
        (val / "images" / name).rename(folder / name)


def test_tiny_imagenet_as_unpacked(tmp_path):
    root = write_tiny_imagenet(tmp_path)
    found = load("tinyimagenet", data_dir=tmp_path)
    assert found.name == "tinyimagenet"
    # By their ids, and the ids, too, where two classes have one name.
    assert found.class_names == (
        "goldfish",
        "crane n01629819",
        "bullfrog",
        "crane n03126707",
    )
    assert found.x_train.shape == (12, 64, 64, 3)
    assert found.x_train.dtype == np.uint8
    pixels = found.x_train[:, 0, 0, 0]
    assert pixels.tolist() == [50 * c + i for c in range(4) for i in range(3)]
    assert found.y_train.tolist() == np.repeat(range(4), 3).tolist()
    # Each validation image with its own label, and the classes mixed.
    assert found.y_test.tolist() == [0, 1, 2, 3] * 2
    assert (found.x_test[:, 9, 9, 2] == 50 * found.y_test + 10 + np.arange(8)).all()
    for again in (load("tinyimagenet", data_dir=root), load(root)):
        assert (again.x_test == found.x_test).all()
        assert again.class_names == found.class_names


@pytest.mark.parametrize("deeper", [False, True])
def test_tiny_imagenet_with_val_in_class_folders(tmp_path, deeper):
    root = write_tiny_imagenet(tmp_path)
    before = load("tinyimagenet", data_dir=tmp_path)
    sort_into_class_folders(root / "val", deeper)
    if deeper:
        (root / "val" / "val_annotations.txt").unlink()
        (root / "val" / "images").rmdir()
    after = load("tinyimagenet", data_dir=tmp_path)
    assert (after.x_test == before.x_test).all()
    assert (after.y_test == before.y_test).all()


def test_tiny_imagenet_reads_only_the_classes_asked_for(tmp_path):
    root = write_tiny_imagenet(tmp_path)
    for file in (root / "train" / WNIDS[2] / "images").iterdir():
        file.write_bytes(b"not an image")
    found = load("tinyimagenet", data_dir=tmp_path, classes=2)
    assert found.class_names == ("goldfish", "crane n01629819")
    assert found.y_test.tolist() == [0, 1, 0, 1]
    assert (found.x_test[:, 0, 0, 0] == [10, 61, 14, 65]).all()
    data = long_tail_arrays("tinyimagenet", 3, data_dir=tmp_path, classes=[3, 0])
    assert data.class_counts.tolist() == [3, 1]
    assert data.class_names == ("crane n03126707", "goldfish")
    assert data.test[1].tolist() == [1, 0, 1, 0]


def test_tiny_imagenet_not_there(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        load("tinyimagenet", data_dir=tmp_path)
    for part in (str(tmp_path / "tiny-imagenet-200"), ".zip", "data_dir='DIR'"):
        assert part in str(raised.value)


def test_damaged_tiny_imagenet(tmp_path):
    root = write_tiny_imagenet(tmp_path)
    (root / "val" / "images" / "val_6.JPEG").rename(root / "val_6.JPEG")
    with pytest.raises(FileNotFoundError, match="val_6.JPEG is missing, and .* lists"):
        load("tinyimagenet", data_dir=tmp_path)
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text(f"val_0.JPEG\t{WNIDS[0]}\n\n")
    with pytest.raises(ValueError, match=f"lists no image of {WNIDS[1]}"):
        load("tinyimagenet", data_dir=tmp_path)
    annotations.unlink()
    with pytest.raises(FileNotFoundError, match="must have the file val_annotations"):
        load("tinyimagenet", data_dir=tmp_path)
    (root / "train" / WNIDS[3]).rename(root / WNIDS[3])
    with pytest.raises(FileNotFoundError, match=f"lacks 1 .* such as {WNIDS[3]}"):
        load("tinyimagenet", data_dir=tmp_path)


# ImageNet at 64x64 pixels


@pytest.mark.tensorflow
def test_imagenet64(tmp_path):
    write_imagenet64(tmp_path)
    found = load("imagenet64", data_dir=tmp_path, classes=3)
    assert found.name == "imagenet64"
    # The order of Imagenet64, not that of the ids.
    assert found.class_names == ("n02119789", "n02100735", "n02110185")
    assert found.x_train.shape == (12, 64, 64, 3)
    assert np.bincount(found.y_train).tolist() == [5, 4, 3]
    pixels = found.x_train.astype(int)[:, 5, 5, 1]
    assert sorted(pixels) == [50 * c + i for i, c in enumerate(sorted(found.y_train))]
    assert (pixels // 50 == found.y_train).all()
    assert (found.x_test[:, 0, 0, 0] // 50 == found.y_test).all()
    assert np.bincount(found.y_test).tolist() == [2, 2, 2]
    part = load("imagenet64", data_dir=tmp_path, classes=["n02110185", "n02119789"])
    assert np.bincount(part.y_train).tolist() == [3, 5]
    assert (part.x_train[part.y_train == 0][:, 0, 0, 0] // 50 == 2).all()
    with pytest.raises(ValueError, match="Class 3 .* has no training images"):
        load("imagenet64", data_dir=tmp_path)


def test_imagenet64_not_there(tmp_path):
    (tmp_path / "imagenet_resized").mkdir()
    with pytest.raises(FileNotFoundError) as raised:
        load("imagenet64", data_dir=tmp_path)
    for part in (str(tmp_path / "imagenet_resized/64x64"), "tfds.load", "'DIR'"):
        assert part in str(raised.value)


# Files and folders


def test_npz_path(tmp_path):
    file = tmp_path / "mine.npz"
    np.savez(file, x_train=X, y_train=Y, x_test=X, y_test=Y)
    assert load(file).name == "mine"
    assert (load(str(file)).x_test == X).all()


def test_npz_as_medmnist_has_them(tmp_path):
    file = tmp_path / "pathmnist.npz"
    parts = {}
    for part in ("train", "val", "test"):
        parts[f"{part}_images"], parts[f"{part}_labels"] = X, Y[:, None]
    np.savez_compressed(file, **parts)
    found = load(file, image_size=3)
    assert (found.y_validation == Y).all()
    assert found.x_validation.shape == (12, 3, 3, 3)
    assert len(long_tail_arrays(file, 1).validation[1]) == 12
    two = load(file, classes=2)
    assert len(two.x_validation) == len(two.y_validation) == 8


def header(shape, descr="|u1", version=b"\x01\x00"):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n"
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode()


@pytest.mark.parametrize(
    "content, message",
    [
        (header((10**6, 10**6)), "promises shape .* and has 0"),
        (header((2,)) + b"abc", "2 bytes, and has 3"),
        (header((-1, -1)) + b"a", "promises shape"),
        (header((2**33, 2**31)) + b"a", "promises shape"),
        (header((1,), "|O") + b"aaaaaaaa", "holds neither numbers nor text"),
        (header((1,), [("a", "|u1")]) + b"a", "holds neither numbers nor text"),
        (header((1,), "<M8[s]") + b"aaaaaaaa", "holds neither numbers nor text"),
        (header((1,), "|V3") + b"aaa", "holds neither numbers nor text"),
        (header((1,), version=b"\x03\x00") + b"a", "unknown format"),
        (header("(" * 5000), "cannot be used: "),
        (b"garbage", "cannot be used: "),
        (b"", "cannot be used: "),
    ],
)
def test_crafted_npz(tmp_path, content, message):
    file = tmp_path / "mine.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x_train.npy", content)
        for name in ("y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", header((1,)) + b"a")
    with pytest.raises(ValueError, match=rf"mine.npz .*{message}"):
        load(file)


def test_npz_of_more_than_the_memory(tmp_path, monkeypatch):
    file = tmp_path / "mine.npz"
    np.savez_compressed(file, x_train=X, y_train=Y, x_test=X, y_test=Y)
    monkeypatch.setattr(os, "sysconf", lambda name: 20)
    with pytest.raises(ValueError, match="mine.npz .* machine has 0.0 GB of memory"):
        load(file)


def test_npz_refused(tmp_path):
    file = tmp_path / "mine.npz"
    np.savez(file, x_train=X, y_train=Y)
    with pytest.raises(ValueError, match="mine.npz .* lacks x_test, y_test"):
        load(file)
    objects = np.array([Reduced(eval, "1")], dtype=object)
    np.savez(file, x_train=objects, y_train=Y, x_test=X, y_test=Y)
    with pytest.raises(ValueError, match="mine.npz cannot be used"):
        load(file)
    np.savez(file, x_train=X, y_train=Y, x_test=X, y_test=Y, x_val=X)
    with pytest.raises(ValueError, match="images or labels without the other"):
        load(file)
    file.write_bytes(b"garbage")
    with pytest.raises(ValueError, match="mine.npz cannot be used"):
        load(file)


@pytest.mark.parametrize(
    "names, message",
    [
        (["a", "b"], "labels from 0 to 1, for the 2 classes"),
        (["a", "b", "c", "d"], r"Class 3 \(d\) has no training images"),
        (["a", "b", "a"], "all different. Received more than once: 'a'"),
        ([b"a", b"b", b"\xff"], "must be text in UTF-8"),
        (["a", "", "c"], "must not be empty"),
        ([["a", "b", "c"]], "are no list of names"),
        ("abc", "are no list of names"),
    ],
)
def test_class_names_refused(tmp_path, names, message):
    file = tmp_path / "mine.npz"
    np.savez(file, x_train=X, y_train=Y, x_test=X, y_test=Y, class_names=names)
    with pytest.raises(ValueError, match=message):
        load(file)


def test_class_names_of_other_types(tmp_path):
    file = tmp_path / "mine.npz"
    arrays = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}
    for names, expected in (([b"a", "\u00e9".encode(), b"c"], "é"), ([5, 6, 7], "6")):
        np.savez(file, class_names=names, **arrays)
        assert load(file).class_names[1] == expected


def test_everything_but_tfds_works_without_tensorflow(tmp_path):
    write_folder(tmp_path / "images", X)
    write_cifar10(tmp_path)
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from keras_robustlt.data import check, long_tail, long_tail_arrays\n"
        "print(long_tail_arrays('digits').class_counts.sum())\n"
        "print(len(long_tail('digits', batch_size=100).train))\n"
        f"root = {str(tmp_path)!r}\n"
        "print(len(long_tail_arrays(root + '/images', 2).train[0]))\n"
        "print(check(root + '/images').ok)\n"
        "print(len(long_tail_arrays('cifar10', 1, data_dir=root).train[0]))\n"
    )
    pytest.importorskip("jax", reason="Keras needs a backend")
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["314", "4", "7", "True", "20"]
