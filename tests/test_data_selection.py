import os
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_robustlt.data import long_tail_arrays
from keras_robustlt.data.selection import long_tail_counts, long_tail_indices

SHARED = pathlib.Path(
    os.environ.get(
        "ROBUSTLT_SHARED", pathlib.Path(__file__).resolve().parents[2] / "shared"
    )
)


def test_exponential_counts_of_cifar10():
    expected = [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]
    assert long_tail_counts(5000, 10, 50).tolist() == expected


def test_exponential_counts_of_cifar100():
    counts = long_tail_counts(500, 100, 10)
    assert (counts[0], counts[-1], counts.sum()) == (500, 50, 19573)
    # Of the published split of ratio 10.
    assert (counts // 5).sum() == 3876


def test_step_counts():
    counts = long_tail_counts(100, 5, 8, "step")
    assert counts.tolist() == [100, 100, 12, 12, 12]


@given(
    largest=st.integers(100, 5000),
    num_classes=st.integers(2, 100),
    ratio=st.floats(1, 100),
    imbalance_type=st.sampled_from(["exp", "step"]),
)
def test_counts_fall_from_the_largest_class(
    largest, num_classes, ratio, imbalance_type
):
    counts = long_tail_counts(largest, num_classes, ratio, imbalance_type)
    assert len(counts) == num_classes
    assert counts[0] == largest
    assert (np.diff(counts) <= 0).all()
    # `int` and rounding take one image at most.
    assert largest / ratio - 1 - 1e-6 <= counts[-1] <= largest / ratio + 1e-6


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((5000, 10, 0.5), "`imbalance_ratio` .* at least 1"),
        ((5000, 10, float("nan")), "`imbalance_ratio`"),
        ((5000, 10, 50, "linear"), "must be one of 'exp', 'step'.*'linear'"),
        ((5000, 1, 50), "`num_classes`"),
        ((5000, 10**8, 50), "`num_classes`"),
        ((0, 10, 50), "`largest`"),
        ((40, 10, 50), "Class 9 would keep 0 .* at most 40"),
    ],
)
def test_counts_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        long_tail_counts(*arguments)


LABELS = np.arange(60) % 3


@given(
    counts=st.lists(st.integers(1, 20), min_size=3, max_size=3),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 2**32),
)
def test_indices_have_the_counts_and_do_not_overlap(counts, fraction, seed):
    train, validation = long_tail_indices(LABELS, counts, seed, fraction)
    both = np.concatenate([train, validation])
    assert len(set(both)) == len(both)
    assert np.bincount(LABELS[both], minlength=3).tolist() == counts
    held_out = np.bincount(LABELS[validation], minlength=3)
    least = [fraction > 0 and n > 1 for n in counts]
    expected = [
        max(int(n * fraction), few) for n, few in zip(counts, least, strict=True)
    ]
    assert held_out.tolist() == expected


def test_seed_names_the_split():
    first, _ = long_tail_indices(LABELS, [10, 10, 10], 102)
    again, _ = long_tail_indices(LABELS, [10, 10, 10], 102)
    other, _ = long_tail_indices(LABELS, [10, 10, 10], 103)
    assert (first == again).all()
    assert set(first) != set(other)


def test_validation_takes_nothing_from_outside_the_selection():
    whole, none = long_tail_indices(LABELS, [20, 10, 5], 102)
    train, validation = long_tail_indices(LABELS, [20, 10, 5], 102, 0.2)
    assert len(none) == 0
    assert set(whole) == set(train) | set(validation)


@given(
    num_groups=st.integers(2, 30),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 2**32),
    imbalance=st.integers(1, 20),
)
def test_groups_are_whole_and_no_class_is_used_up(
    num_groups, fraction, seed, imbalance
):
    generator = np.random.default_rng(seed)
    counts = [60, 60 // imbalance, max(2, 20 // imbalance)]
    labels = np.repeat([0, 1, 2], counts)
    groups = generator.integers(0, num_groups, len(labels))
    train, validation = long_tail_indices(labels, None, seed, fraction, groups)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    assert not set(groups[train]) & set(groups[validation])
    assert np.bincount(labels[train], minlength=3).min() > 0
    again = long_tail_indices(labels, None, seed, fraction, groups.astype(str))
    if num_groups <= 10:  # Beyond, text sorts in another order.
        assert (train == again[0]).all()


def test_groups_of_one_image_meet_the_numbers():
    labels = np.repeat([0, 1, 2], [60, 20, 4])
    _, validation = long_tail_indices(labels, None, 102, 0.25, np.arange(84))
    assert np.bincount(labels[validation]).tolist() == [15, 5, 1]


def test_no_counts_keep_everything():
    labels = np.array([0, 0, 0, 1, 1, 2])
    train, _ = long_tail_indices(labels, None, 102)
    assert sorted(train) == list(range(6))


@pytest.mark.parametrize(
    "labels, counts, message",
    [
        ([0, 0, 2], None, "Class 1 has no images"),
        ([0, 0, 1], [2, 2], r"`class_counts\[1\]` must be from 1 to 1"),
        ([0, 0, 1], [0, 1], r"class_counts\[0\]=0"),
        ([0, 1, 2], [1, 1], "only 2 classes"),
    ],
)
def test_indices_refuse(labels, counts, message):
    with pytest.raises(ValueError, match=message):
        long_tail_indices(labels, counts, 102)


def test_classes_that_validation_lacks_are_named():
    x = np.arange(60, dtype=np.uint8).reshape(15, 2, 2)
    y = np.repeat([0, 1, 2], [10, 4, 1])
    options = {"imbalance_ratio": None, "validation_fraction": 0.1}
    with pytest.warns(UserWarning, match="none of the classes 2, which have one image"):
        data = long_tail_arrays(((x, y), (x, y)), **options)
    assert np.bincount(data.validation[1]).tolist() == [1, 1]
    with pytest.warns(UserWarning, match="classes 1, 2, which have one image or group"):
        long_tail_arrays(((x, y), (x, y)), groups=[*range(10), *[10] * 5], **options)


def test_validation_fraction_below_one():
    with pytest.raises(ValueError, match="`validation_fraction` must be in"):
        long_tail_indices(LABELS, None, 102, validation_fraction=1.0)


@pytest.mark.parametrize("ratio", [10, 50, 100])
def test_published_splits_index_for_index(ratio):
    split_file = SHARED / "data" / "splits" / f"cifar10-exp{ratio}-seed102.npz"
    label_file = SHARED / "data" / "cifar10" / "cifar10_jpeg.npz"
    if not (split_file.is_file() and label_file.is_file()):
        pytest.skip(f"needs {split_file} and {label_file}")
    with np.load(label_file) as data:
        labels = data["train_labels"]
    counts = long_tail_counts(5000, 10, ratio)
    train, validation = long_tail_indices(labels, counts, 102, 0.2)
    with np.load(split_file) as published:
        assert (train == published["train_indices"]).all()
        assert (validation == published["val_indices"]).all()
