"""Settings to begin with, and their reasons."""

import re

import numpy as np
import pytest
from PIL import Image

import keras_robustlt as krl
from keras_robustlt import suggestion


def made_data(counts, side=8, noise=0.0, apart=0.5, seed=0):
    """Flat images whose grey is that of their class, and noise."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    grey = 0.25 + apart * y / (len(counts) - 1)
    x = grey[:, None, None, None] + noise * rng.normal(size=(len(y), side, side, 1))
    return np.clip(x, 0, 1).astype("float32"), y


def test_noise_of_images():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0.3, 0.6, 64)[:, None, None] * np.ones((64, 64, 3))
    for sigma in (0.005, 0.03):
        images = ramp + sigma * rng.normal(size=(4, 64, 64, 3))
        assert suggestion.noise_level(images) == pytest.approx(sigma, rel=0.05)
    assert suggestion.noise_level(ramp[None]) == pytest.approx(0, abs=1e-12)
    assert suggestion.noise_level(np.zeros((2, 2, 5, 1))) == 0


def test_distance_between_classes():
    images, labels = made_data([5, 4], apart=0.4)
    found = suggestion.distance_between_classes(images, labels)
    assert found == pytest.approx(0.4, abs=1e-6)
    assert suggestion.distance_between_classes(images, 0 * labels) == 1


@pytest.mark.parametrize(
    ("given", "budget", "reason"),
    [
        ({}, 8, "usual for images of up to 64 px"),
        ({"side": 65}, 4, "usual for images of more than 64 px"),
        ({"noise": 0.05}, 14, r"noise of 13\.\d/255"),
        ({"noise": 0.2}, 16, "noise of"),
        ({"apart": 0.045}, 5, "11/255 apart"),
        ({"apart": 0.0}, 1, "0/255 apart"),
    ],
)
def test_epsilon(given, budget, reason):
    found = krl.suggest(*made_data([40, 30], **given))
    assert found.epsilon == pytest.approx(budget / 255)
    assert re.search(reason, found.reasons["epsilon"])


@pytest.mark.parametrize("counts", [[400, 90, 20, 3], [5000, 9], [100, 99, 98, 10]])
def test_the_rarest_class_stays_below_twice_epsilon(counts):
    found = krl.suggest(*made_data(counts))
    assert 0 < found.alpha <= 0.3
    assert found.class_epsilon.max() <= 2 * found.epsilon * (1 + 1e-6)
    if found.alpha < 0.3:  # as large as that allows, to three digits
        larger = krl.budget.classwise_epsilon(
            counts, found.epsilon, found.alpha + 0.001
        )
        assert larger.max() > 2 * found.epsilon
    assert found.beta == 0.8 if max(counts) > 10 * min(counts) else 0.6


def test_nearly_equal_classes_are_left_alone():
    found = krl.suggest(*made_data([50, 45, 40]))
    assert found.alpha == 0 and found.beta == 0.6
    np.testing.assert_allclose(found.class_epsilon, found.epsilon)


def test_length_follows_the_number_of_images():
    small, large = (krl.suggest(*made_data([n, n // 2])) for n in (60, 6000))
    assert (small.batch_size, small.epochs) == (16, 200)
    assert (large.batch_size, large.epochs) == (128, 30)
    assert "36 steps" in small.reasons["batch_size"] or small.epochs * 6 <= 2000


def test_serves_a_model_and_is_readable(tmp_path):
    import keras

    x, y = made_data([30, 12, 3])
    found = krl.suggest(x, y, class_names=["head", "middle", "tail"])
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model = krl.RobustLTModel(network, **found.model_arguments)
    assert model.epsilon == found.epsilon
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == list(found.reasons)
    assert "8/255" in lines[0]
    figure = found.plot()
    assert len(figure.axes) == 6  # three images, as they are and at their budget
    for name, begins in (("rarest.png", b"\x89PNG"), ("rarest.pdf", b"%PDF")):
        assert krl.plots.save(figure, tmp_path / name).read_bytes().startswith(begins)
    shown = figure.axes[3].images[0].get_array()
    assert abs(shown - x[y == 2][0].squeeze()).max() == pytest.approx(
        found.class_epsilon[2], abs=1e-2
    )


def test_reads_files(tmp_path):
    x, y = made_data([20, 10])
    path = tmp_path / "data.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    assert str(krl.suggest(path)) == str(krl.suggest(x, y))
    assert krl.suggest(krl.data.load(path)).class_names == ("0", "1")


def test_reads_folders_as_load_does(tmp_path):
    for index, (image, label) in enumerate(zip(*made_data([20, 10]), strict=True)):
        (tmp_path / str(label)).mkdir(exist_ok=True)
        size = (10, 12) if index % 2 else (12, 12)
        image = Image.fromarray((255 * image.squeeze()).astype("uint8")).resize(size)
        image.save(tmp_path / str(label) / f"{index}.png")
    (tmp_path / "0" / "bad.png").write_text("no image")
    options = {"on_bad": "skip", "image_size": 8}
    with pytest.warns(UserWarning, match="bad.png"):
        found = krl.suggest(tmp_path, **options)
    assert found.class_counts.tolist() == [16, 8]
    with pytest.raises(ValueError, match="`on_bad` is for `data` that is a path"):
        krl.suggest(*made_data([20, 10]), **options)


IMAGES = np.zeros((4, 8, 8, 1), "float32")
HAND_MADE = krl.data.Source(IMAGES, [0, 1], IMAGES, [0, 1], ("a", "b"), "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((4, 8, 8, 1)),), "`y` must hold the labels"),
        ((np.zeros((4, 8, 8, 1)), [0, 1]), "4 images and 2 labels"),
        ((np.full((4, 8, 8, 1), 9.0), [0, 1, 0, 1]), "must be in \\[0, 1\\]"),
        ((np.zeros((4, 8, 8, 1)), [0, 2, 0, 2]), r"without gaps.*\[2, 0, 2\] images"),
        ((np.zeros((4, 8, 8, 1)), [0, 1, 0, 1], [["a"], ["b"]]), "one list of names"),
        ((HAND_MADE,), "`data.x_train` and `data.y_train` must have the same length"),
        ((np.zeros((0, 8, 8, 1)), np.zeros(0, int)), "`data` must hold images"),
        (("digits", [0, 1]), "`y` is for `data` that is an array"),
        (("digits", None, ["a", "b"]), "`class_names` is for `data` that is an array"),
        ((np.zeros((4, 8, 8, 1)), [0, 1, 0, 1], ["a", "a"]), "all different"),
        ((np.zeros((4, 8, 8, 1)), [0, 1, 0, 1], None, "1"), "`seed` must be"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        krl.suggest(*arguments)


def test_images_of_one_pixel_are_shown():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (6, 1, 1, 1)).astype("uint8"), [0, 0, 0, 0, 1, 1]
    assert krl.suggest(x, y).plot().axes
