import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image
from tiny_data import write_folder

from keras_robustlt.data import check, long_tail_arrays
from keras_robustlt.data.sources import load

GENERATOR = np.random.default_rng(0)
X = GENERATOR.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
OTHERS = GENERATOR.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


def kinds(source, **options):
    return {finding["kind"] for finding in check(source, **options).findings}


def test_folder_with_test_set(tmp_path):
    write_folder(tmp_path / "train", X)
    write_folder(tmp_path / "test", OTHERS)
    found = load(tmp_path)
    assert found.class_names == ("ant", "bee")
    assert (found.x_train == np.concatenate([X[::2], X[1::2]])).all()
    assert found.y_train.tolist() == [0] * 6 + [1] * 6
    assert len(found.x_test) == 4


def test_folder_reads_only_the_classes_asked_for(tmp_path):
    for part, images in (("train", X), ("test", OTHERS)):
        write_folder(tmp_path / part, images)
        (tmp_path / part / "cow").mkdir()
        (tmp_path / part / "cow" / "1.png").write_bytes(b"not an image")
    assert load(tmp_path, classes=2).class_names == ("ant", "bee")
    found = load(tmp_path, classes=["bee", "ant"])
    assert (found.x_train[found.y_train == 0] == X[1::2]).all()
    assert load(tmp_path / "train", classes=2).num_classes == 2


def test_folder_without_test_set_holds_one_out(tmp_path):
    write_folder(tmp_path, X)
    found = load(tmp_path, test_fraction=1 / 3, seed=1)
    assert np.bincount(found.y_test).tolist() == [2, 2]
    assert np.bincount(found.y_train).tolist() == [4, 4]
    together = np.concatenate([found.x_train, found.x_test])
    assert {x.tobytes() for x in together} == {x.tobytes() for x in X}
    assert (load(tmp_path, test_fraction=1 / 3, seed=1).x_test == found.x_test).all()


def test_folder_of_gray_images_and_of_a_mixture(tmp_path):
    write_folder(tmp_path / "gray", X, mode="L")
    assert load(tmp_path / "gray").x_train.shape[1:] == (6, 5, 1)
    write_folder(tmp_path / "mixed", X, mode="P")
    write_folder(tmp_path / "mixed", X[:2], mode="L", suffix=".jpg")
    assert load(tmp_path / "mixed").x_train.shape[1:] == (6, 5, 3)


def test_folder_of_several_sizes(tmp_path):
    write_folder(tmp_path, list(X) + [X[0, :4], X[1, :4]])
    with pytest.raises(
        ValueError, match=r"most of them 6x5. Pass `image_size`.*\n.*012.png: 4x5"
    ):
        load(tmp_path)
    assert load(tmp_path, image_size=4).x_train.shape[1:] == (4, 4, 3)


def test_unreadable_image_is_named(tmp_path):
    write_folder(tmp_path, X)
    (tmp_path / "bee" / "broken.JPG").write_bytes(b"no image")
    with pytest.raises(
        ValueError, match="(?s)1 of 13 files cannot .*broken.JPG: cannot"
    ):
        load(tmp_path)
    whole = (tmp_path / "bee" / "001.png").read_bytes()
    (tmp_path / "bee" / "broken.JPG").write_bytes(whole[:-40])
    with pytest.raises(
        ValueError, match="(?s)1 of 13 files cannot be read.*broken.JPG"
    ):
        load(tmp_path)


def test_folders_refused(tmp_path):
    with pytest.raises(ValueError, match="one sub-folder of images a class"):
        load(tmp_path)
    write_folder(tmp_path / "train", X)
    with pytest.raises(ValueError, match="neither `test` nor `val`"):
        load(tmp_path)
    # As Tiny-ImageNet ships its validation images: not sorted into classes.
    write_folder(tmp_path / "val", X)
    (tmp_path / "val" / "bee").rename(tmp_path / "val" / "images")
    with pytest.raises(ValueError, match="same sub-folders.*bee, images"):
        load(tmp_path)
    (tmp_path / "val" / "images").rename(tmp_path / "val" / "bee")
    for part in ("train", "val"):
        (tmp_path / part / "cow").mkdir()
    with pytest.raises(ValueError, match=r"without images in a format.*\s+- .*cow"):
        load(tmp_path)
    # The table does not end there.
    (tmp_path / "val" / "bee" / "001.png").write_bytes(b"no image")
    errors = [(each["kind"], each["count"]) for each in check(tmp_path).of("error")]
    assert errors == [("empty class", 1), ("empty class", 1), ("unreadable", 1)]


def test_one_image_cannot_train_and_test(tmp_path):
    write_folder(tmp_path, X[:3])
    with pytest.raises(ValueError, match="Class 'bee' has one image"):
        load(tmp_path)


# Parts


@pytest.mark.parametrize(
    "train, test",
    [
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("TRAIN", "Valid"),
        ("train2017", "val2017"),
        ("train_images", "TestImages"),
        ("seg_train", "seg_test"),
        ("Train Data", "validation-data"),
    ],
)
def test_parts_in_any_spelling(tmp_path, train, test):
    write_folder(tmp_path / train, X)
    write_folder(tmp_path / test, OTHERS)
    found = load(tmp_path)
    assert found.class_names == ("ant", "bee")
    assert (len(found.x_train), len(found.x_test)) == (12, 4)


def test_validation_folder_is_the_validation_set(tmp_path):
    for part, images in (("train", X[:8]), ("val", X[8:]), ("test", OTHERS)):
        write_folder(tmp_path / part, images)
    found = load(tmp_path)
    assert len(found.x_validation) == 4
    assert (found.x_test == OTHERS[[0, 2, 1, 3]]).all()
    data = long_tail_arrays(tmp_path, imbalance_ratio=None)
    assert (data.validation[0] * 255 == found.x_validation).all()
    with pytest.warns(UserWarning, match="has validation images of its own"):
        long_tail_arrays(tmp_path, imbalance_ratio=None, validation_fraction=0.3)
    part = load(tmp_path, classes=["bee", "ant"])
    assert part.y_validation.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("flat", [("Train", "Test"), ("train_cat", "test_cat")])
def test_parts_without_class_folders_are_no_classes(tmp_path, flat):
    write_folder(tmp_path, X, classes=flat)
    with pytest.raises(ValueError, match="seem to be parts of the data"):
        load(tmp_path)


@pytest.mark.parametrize("folders", [("Testing", "x"), ("train", "Training", "test")])
def test_incomplete_or_ambiguous_parts(tmp_path, folders):
    for folder in folders:
        write_folder(tmp_path / folder, X)
    with pytest.raises(ValueError, match="no folder `train`|several folders for one"):
        load(tmp_path)


def test_class_names_with_words_of_parts(tmp_path):
    write_folder(tmp_path, X, classes=("bus", "train", "test tube", "train station"))
    assert load(tmp_path).num_classes == 4


def test_parts_inside_of_classes(tmp_path):
    for name in ("ant", "bee"):
        write_folder(tmp_path / name, X, classes=("train", "test"))
    with pytest.raises(ValueError, match="Parts of the data come first"):
        load(tmp_path)


@pytest.mark.parametrize(
    "classes, message",
    [
        (("cat", "dog", "test"), "is read as a class of that name"),
        (("Cat", "cat", "dog"), "differ in case or spaces only"),
        (("ant", "ant ", "bee"), "differ in case or spaces only"),
        (("cat", "dog", "masks"), "Folders that are read as classes: masks"),
        (("ant", "bee", "bee - Copy"), "read as classes: bee - Copy"),
    ],
)
def test_suspicious_classes(tmp_path, classes, message):
    write_folder(tmp_path, X, classes=classes)
    with pytest.warns(UserWarning, match=message):
        assert load(tmp_path).class_names == classes


def test_parts_in_another_language(tmp_path):
    for part in ("Entrainement", "Essai"):
        write_folder(tmp_path / part, X[:6] if part == "Essai" else X[6:])
    assert "suspicious name" in kinds(tmp_path)


def test_misspelt_parts_are_warned_about(tmp_path):
    for part, images in (("trian", X), ("tset", OTHERS)):
        write_folder(tmp_path / part, images)
    with pytest.warns(UserWarning, match="If they are the parts of the data, call"):
        assert load(tmp_path).class_names == ("trian", "tset")


def test_class_folders_that_cannot_be_read(tmp_path):
    write_folder(tmp_path, X, classes=("ant", "bee", ".cat"))
    (tmp_path / "cow").symlink_to("nowhere")
    with pytest.warns(UserWarning, match="lead nowhere.*\\s.*cow"):
        assert load(tmp_path).class_names == ("ant", "bee")
    assert {"broken link", "hidden"} <= kinds(tmp_path)


def test_parts_of_which_no_file_can_be_read(tmp_path):
    write_folder(tmp_path / "train", X)
    write_folder(tmp_path / "test", OTHERS)
    for file in (tmp_path / "test").rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match="None of the 4 files of test can be read"):
        load(tmp_path, on_bad="skip")
    assert "unreadable part" in kinds(tmp_path, on_bad="skip")


def test_names_that_are_no_text_can_be_printed(tmp_path):
    write_folder(tmp_path, X)
    (tmp_path / "ant" / "x.png").write_bytes(b"no image")
    (tmp_path / "ant" / "x.png").rename(pathlib.Path(tmp_path, "ant", "\udcff.png"))
    assert b"udcff.png" in str(check(tmp_path)).encode()


def test_names_beyond_ascii(tmp_path):
    write_folder(tmp_path, X, classes=("été bleu", "猫", " x"))
    assert load(tmp_path).class_names == (" x", "été bleu", "猫")
    assert "spaces" in kinds(tmp_path)


def test_order_of_numbers_is_noted(tmp_path):
    write_folder(tmp_path, X, classes=("1", "2", "10"))
    assert load(tmp_path).class_names == ("1", "10", "2")
    assert "order" in kinds(tmp_path)


# Files


def test_hidden_files_and_litter_are_not_read(tmp_path):
    write_folder(tmp_path, X)
    (tmp_path / "ant" / "._000.png").write_bytes(b"resource fork")
    (tmp_path / "ant" / "Thumbs.db").write_bytes(b"x")
    for folder in ("__MACOSX", ".git", "ant/.ipynb_checkpoints"):
        write_folder(tmp_path / folder, X[:2])
    found = load(tmp_path)
    assert found.class_names == ("ant", "bee")
    assert len(found.x_train) + len(found.x_test) == 12
    assert kinds(tmp_path) == {"hidden"}


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".bmp", ".webp", ".ppm", ".jp2"])
def test_formats(tmp_path, suffix):
    options = {".webp": {"lossless": True}, ".jp2": {"irreversible": False}}
    write_folder(tmp_path, X[:8])
    for i in range(4):
        file = tmp_path / "ant" / f"more{i}{suffix.upper()}"
        Image.fromarray(OTHERS[i]).save(file, **options.get(suffix, {}))
    found = load(tmp_path)
    images = np.concatenate([found.x_train, found.x_test])
    assert {x.tobytes() for x in OTHERS} <= {x.tobytes() for x in images}


def test_files_of_unknown_suffixes(tmp_path):
    write_folder(tmp_path, X)
    (tmp_path / "ant" / "000.png").rename(tmp_path / "ant" / "no_suffix")
    (tmp_path / "ant" / "notes.txt").write_text("about ants")
    found = load(tmp_path)
    assert len(found.x_train) + len(found.x_test) == 12
    assert kinds(tmp_path) == {"suffix", "no image"}
    for i in range(3):
        (tmp_path / "bee" / f"{i}.dcm").write_bytes(b"DICM")
    with pytest.warns(UserWarning, match=r"3 files .* suffixes: .dcm \(3\)"):
        load(tmp_path)


def test_images_in_no_class(tmp_path):
    write_folder(tmp_path, X)
    Image.fromarray(X[0]).save(tmp_path / "loose.png")
    with pytest.warns(UserWarning, match="1 images lie in .* itself"):
        load(tmp_path)


def test_nested_folders_and_links(tmp_path):
    write_folder(tmp_path / "real", X)
    nested = tmp_path / "real" / "ant" / "patient" / "left"
    nested.mkdir(parents=True)
    (tmp_path / "real" / "ant" / "000.png").rename(nested / "000.png")
    (tmp_path / "real" / "ant" / "loop").symlink_to(tmp_path / "real")
    (nested / "loop").symlink_to(nested.parent)
    (tmp_path / "linked").mkdir()
    for name in ("ant", "bee"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name)
    for root in ("real", "linked"):
        found = load(tmp_path / root)
        assert len(found.x_train) + len(found.x_test) == 12


def test_bad_files_are_named_together_or_skipped(tmp_path):
    write_folder(tmp_path, X)
    whole = (tmp_path / "ant" / "000.png").read_bytes()
    bad = {"text.png": b"no", "empty.jpg": b"", "cut.png": whole[: len(whole) // 2]}
    for name, content in bad.items():
        (tmp_path / "bee" / name).write_bytes(content)
    (tmp_path / "bee" / "away.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "bee" / "pipe.png")
    result = check(tmp_path)
    assert "unknown format" in {f["kind"] for f in result.findings}
    (tmp_path / "bee" / "pipe.png").unlink()
    with pytest.raises(ValueError, match="4 of 16 files") as raised:
        load(tmp_path)
    for name in [*bad, "away.png"]:
        assert name in str(raised.value)
    assert len(raised.value.findings[0]["where"]) == 4
    with pytest.warns(UserWarning, match="4 of 16 files cannot .* are left out"):
        found = load(tmp_path, on_bad="skip")
    assert len(found.x_train) + len(found.x_test) == 12
    assert not result.ok


def test_a_bomb_is_a_bad_file(tmp_path, monkeypatch):
    write_folder(tmp_path, X)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="12 of 12 files cannot be read as images"):
        load(tmp_path)


def test_class_of_bad_files_only(tmp_path):
    write_folder(tmp_path / "train", X)
    write_folder(tmp_path / "test", OTHERS)
    for file in (tmp_path / "train" / "bee").iterdir():
        file.write_bytes(b"no")
    with pytest.raises(ValueError, match="6 of the 6 files of class 'bee' cannot be"):
        load(tmp_path, on_bad="skip")
    found = check(tmp_path, on_bad="skip").of("error")
    assert [each["kind"] for each in found] == ["unreadable class"]


# Pixels


def read_one(tmp_path, image, name="image.png", **options):
    """An image of a folder, as read among others of the same size."""
    size = image.size if "exif" not in options else image.size[::-1]
    image.save(tmp_path / name, **options)
    for label, level in (("ant", 1), ("bee", 2)):
        (tmp_path / label).mkdir(exist_ok=True)
        other = Image.new("L", size, level)
        other.save(tmp_path / label / "other.png")
    (tmp_path / name).rename(tmp_path / "ant" / name)
    Image.new("L", size, 3).save(tmp_path / "bee" / "more.png")
    found = load(tmp_path, test_fraction=0.01, seed=1)
    every = np.concatenate([found.x_train, found.x_test])
    return next(x for x in every if len(np.unique(x)) > 1 or x.max() > 3)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", [6, 8])
def test_images_are_turned_upright(tmp_path, name, orientation):
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:, :8] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = read_one(tmp_path, Image.fromarray(stored), name, exif=exif)
    assert upright.shape == (24, 16, 3)
    expected = np.rot90(stored, 3 if orientation == 6 else 1).astype(int)
    assert np.abs(upright - expected).max() < 12
    assert "rotated" in kinds(tmp_path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_places_are_white(tmp_path, mode):
    pixels = np.full((6, 6, 4), 90, np.uint8)
    pixels[..., 3] = 255
    pixels[:3, :, 3] = 0
    if mode == "P":
        image = Image.fromarray(np.repeat([0, 1], 18).reshape(6, 6).astype(np.uint8))
        image.putpalette([0, 0, 0, 90, 90, 90])
        pixels = read_one(tmp_path, image, transparency=0)
    else:
        pixels = read_one(tmp_path, Image.fromarray(pixels).convert(mode))
    assert (pixels[:3] == 255).all()
    assert (pixels[3:] == 90).all()
    assert pixels.shape[-1] == (1 if mode == "LA" else 3)


def test_images_of_16_bits(tmp_path):
    levels = np.arange(36).reshape(6, 6)
    pixels = read_one(tmp_path, Image.fromarray((levels * 1799).astype(np.uint16)))
    assert (pixels[..., 0] == levels * 7).all()
    assert "16 bits" in kinds(tmp_path)


@pytest.mark.parametrize(
    "mode, colour, expected",
    [
        ("1", 1, (255,)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
    ],
)
def test_modes(tmp_path, mode, colour, expected):
    pixels = read_one(tmp_path, Image.new(mode, (6, 6), colour), "image.tif")
    assert pixels.shape[-1] == len(expected)
    assert (pixels == expected).all()


def test_dark_images_of_16_bits(tmp_path):
    write_folder(tmp_path, X, mode="L")
    for i in range(4):
        pixels = GENERATOR.integers(0, 4096, (6, 5)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / "ant" / f"deep{i}.tif")
    with pytest.warns(UserWarning, match="4 images of 16 bits .* come out dark"):
        load(tmp_path)


def test_images_of_32_bits_are_refused(tmp_path):
    write_folder(tmp_path, X)
    Image.fromarray(np.zeros((6, 5), np.float32)).save(tmp_path / "ant" / "deep.tif")
    with pytest.raises(ValueError, match="(?s)deep.tif: it has more than 16 bits"):
        load(tmp_path)


def test_pages(tmp_path):
    write_folder(tmp_path, X)
    pages = [Image.fromarray(x) for x in OTHERS]
    pages[0].save(tmp_path / "ant" / "a.gif", save_all=True, append_images=pages[1:])
    load(tmp_path)
    assert "animation" in kinds(tmp_path)
    pages[0].save(tmp_path / "ant" / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(UserWarning, match="1 TIFF files have several pages"):
        load(tmp_path)


def test_color_mode(tmp_path):
    write_folder(tmp_path, X)
    gray = load(tmp_path, color_mode="grayscale").x_train
    assert gray.shape[-1] == 1
    write_folder(tmp_path / "gray", X, mode="L")
    assert load(tmp_path / "gray", color_mode="rgb").x_train.shape[-1] == 3
    # Arrays as files.
    labels = np.arange(12) % 2
    as_arrays = load(((X, labels), (X, labels)), color_mode="grayscale").x_test
    expected = [np.asarray(Image.fromarray(x).convert("L")) for x in X]
    assert (as_arrays[..., 0] == expected).all()
    rgb = load(((as_arrays, labels), (as_arrays, labels)), color_mode="rgb")
    assert (rgb.x_train == as_arrays).all()


# Duplicates, groups and the table


def test_duplicates_across_parts_and_classes(tmp_path):
    write_folder(tmp_path / "train", X)
    write_folder(tmp_path / "test", [*OTHERS[:3], X[3]])
    with pytest.warns(UserWarning, match="1 of 4 images of test are in train"):
        load(tmp_path)
    write_folder(tmp_path / "train", [*X, X[0], X[0]])
    with pytest.warns(UserWarning, match="Images in more than one class.*: 1"):
        load(tmp_path)
    assert "twice in train" in kinds(tmp_path)


def test_groups_are_not_divided(tmp_path):
    images = GENERATOR.integers(0, 256, (60, 4, 4), dtype=np.uint8)
    images[:, 0, 0] = np.arange(60) // 2 % 10  # Ten patients.
    for i, image in enumerate(images):
        folder = tmp_path / ["ant", "bee"][i % 2] / f"patient{image[0, 0]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    options = {"groups": lambda path: path.parent.name, "test_fraction": 0.3}
    data = long_tail_arrays(
        tmp_path, imbalance_ratio=None, validation_fraction=0.3, **options
    )
    parts = [np.round(x * 255).astype(int) for x, _ in (data.train, data.test)]
    parts.append(np.round(data.validation[0] * 255).astype(int))
    patients = [set(part[:, 0, 0, 0]) for part in parts]
    assert sum(map(len, patients)) == 10
    assert len(set.union(*patients)) == 10
    assert [len(p) for p in patients] == [5, 3, 2]
    again = load(tmp_path, **options)
    assert (again.x_test == np.round(data.test[0] * 255)).all()
    assert set(again.groups) == {f"patient{p}" for p in patients[0] | patients[2]}
    with pytest.raises(ValueError, match="Each class needs two groups"):
        load(tmp_path, groups=lambda path: path.parents[1].name)
    with pytest.raises(ValueError, match="must be a function"):
        load(tmp_path, groups=[1] * 60)


def test_the_table(tmp_path):
    write_folder(tmp_path / "train", [*X, X[1, :4], X[3, :3]])
    write_folder(tmp_path / "test", OTHERS)
    (tmp_path / "train" / "bee" / "001.png").write_bytes(b"")
    result = check(tmp_path)
    assert not result.ok
    assert result.class_counts["train"] == {"ant": 7, "bee": 6}
    severities = [finding["severity"] for finding in result.findings]
    assert severities == ["error", "error", "note"]
    assert json.loads(json.dumps(result.findings)) == result.findings
    text = str(result)
    for part in ("other size", "unreadable", "001.png: it is empty", "imbalance"):
        assert part in text
    assert "2 errors" in repr(result)
    sized = check(str(tmp_path), image_size=4)
    assert [f["kind"] for f in sized.of("note")] == ["other size", "imbalance"]


def test_check_of_clean_data_and_of_other_sources(tmp_path):
    labels = np.arange(12) % 2
    clean = check(((X, labels), (OTHERS, [0, 1, 0, 1])))
    assert "Nothing noteworthy" in str(clean)
    file = tmp_path / "data.npz"
    np.savez(file, x_train=X, y_train=labels, x_test=X, y_test=labels * 0)
    assert kinds(file) == {"in train and test", "two classes", "no images"}
    np.savez(file, x_train=X, y_train=labels / 2, x_test=X, y_test=labels)
    assert kinds(file) == {"refused"}
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "nowhere")
    assert kinds(tmp_path) == {"refused"}


def test_check_command(tmp_path, capsys):
    from absl import flags

    from keras_robustlt.data import check_command

    def run(*arguments):
        values = flags.FlagValues()
        check_command.define_flags(values)
        check_command.main(values(["check", *arguments]), values)

    write_folder(tmp_path, X)
    run(str(tmp_path))
    assert "Nothing noteworthy" in capsys.readouterr().out
    (tmp_path / "ant" / "bad.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="1"):
        run(str(tmp_path), "--json")
    assert json.loads(capsys.readouterr().out)[0]["kind"] == "unreadable"
    with pytest.raises(SystemExit, match="error: .*no file or folder is there"):
        run(str(tmp_path / "nowhere"))


def test_home_and_relative_paths(tmp_path, monkeypatch):
    write_folder(tmp_path / "images", X)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "images")
    for path in ("~/images", ".", pathlib.Path("../images")):
        assert load(path).name == "images"


def test_a_check_refuses_the_options_that_loading_does(tmp_path):
    write_folder(tmp_path, X)
    for options in ({"color_mode": "foo"}, {"on_bad": "foo"}, {"seed": -1}):
        checked = check(tmp_path, **options)
        (name,) = options
        assert [f["kind"] for f in checked.findings if f"`{name}`" in str(f)]
    with pytest.raises(TypeError, match="image_siz"):
        check(tmp_path, image_siz=3)
