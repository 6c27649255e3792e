"""Images in folders, one folder a class, and Tiny-ImageNet's variety of that."""

import numpy as np

from keras_robustlt.data.selection import chosen_classes

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
TINY_IMAGENET = "tiny-imagenet-200"
TINY_IMAGENET_ARCHIVE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def read_folder(root, image_size, test_fraction, seed, classes):
    """Images of `root/train` and `root/test` (or `val`), or of `root` alone.

    Returns:
        `x_train, y_train, x_test, y_test, class_names`.
    """
    if (root / "wnids.txt").is_file():
        return read_tiny_imagenet(root, image_size, classes)
    if not (root / "train").is_dir():
        names = _chosen_names(root, classes)
        files, labels = _files_of_classes(root, names)
        x, y = _read_images(files, image_size), np.array(labels)
        train, test = _hold_out(y, names, test_fraction, seed)
        return x[train], y[train], x[test], y[test], names
    names = _chosen_names(root / "train", classes)
    held_out = next((root / n for n in ("test", "val") if (root / n).is_dir()), None)
    if held_out is None:
        raise ValueError(
            f"{root} has a folder `train` but neither `test` nor `val`. Add one, or "
            "pass the path of `train` itself to hold test images out of it."
        )
    differ = sorted(set(_class_names(root / "train")) ^ set(_class_names(held_out)))
    if differ:
        raise ValueError(
            f"{held_out} must have the same sub-folders, one a class, as "
            f"{root / 'train'}. Only one of them has: {', '.join(differ[:5])}"
            f"{' ...' if len(differ) > 5 else ''}"
        )
    train = _files_of_classes(root / "train", names)
    test = _files_of_classes(held_out, names)
    return *_read_both(train, test, image_size), names


# Tiny-ImageNet


def find_tiny_imagenet(root):
    """The folder of Tiny-ImageNet in `root`, or `root` itself."""
    places = [root / TINY_IMAGENET, root]
    for place in places:
        if (place / "train").is_dir() and (place / "val").is_dir():
            return place
    listed = "\n".join(f"  - {place}" for place in places)
    raise FileNotFoundError(
        f"tinyimagenet was not found. Looked for `train` and `val` in\n{listed}\n"
        f"To get it, unpack {TINY_IMAGENET_ARCHIVE} (about 240 MB) into a folder "
        "DIR, and pass data_dir='DIR'."
    )


def read_tiny_imagenet(root, image_size, classes):
    """Tiny-ImageNet as it is unpacked, or with `val` sorted into class folders.

    Classes are in the order of their WordNet ids. The test images are those of `val`,
    as those of `test` are published without their labels.

    Returns:
        `x_train, y_train, x_test, y_test, class_names`.
    """
    wnids = _class_names(root / "train")
    listed = root / "wnids.txt"
    missing = sorted(set(listed.read_text().split() if listed.is_file() else ()))
    missing = [wnid for wnid in missing if wnid not in wnids]
    if missing:
        raise FileNotFoundError(
            f"{root / 'train'} lacks {len(missing)} of the classes in {listed}, such "
            f"as {missing[0]}. Unpack {TINY_IMAGENET_ARCHIVE} again."
        )
    names = _english_names(root / "words.txt", wnids)
    chosen = chosen_classes(classes, names)
    wnids = [wnids[c] for c in chosen]
    train = _files_of_classes(root / "train", wnids)
    val = root / "val"
    if all((val / wnid).is_dir() for wnid in wnids):
        files, labels = _files_of_classes(val, wnids)
    else:
        files, labels = _annotated_files(val, wnids)
    # By the name of the file, which mixes the classes: the first so many images are
    # a sample of all, and the same ones in either layout.
    order = sorted(range(len(files)), key=lambda i: files[i].name)
    test = [files[i] for i in order], [labels[i] for i in order]
    return *_read_both(train, test, image_size), [names[c] for c in chosen]


def _english_names(file, wnids):
    """The first of the words for each id; the id, too, where that is not unique."""
    words = dict.fromkeys(wnids)
    if file.is_file():
        lines = file.read_text(encoding="utf-8").splitlines()
        words.update(line.split("\t", 1) for line in lines if "\t" in line)
    names = [(words[wnid] or wnid).split(",")[0].strip() for wnid in wnids]
    return [
        name if names.count(name) == 1 else f"{name} {wnid}"
        for name, wnid in zip(names, wnids, strict=True)
    ]


def _annotated_files(val, wnids):
    """Images of all classes in one folder, with a table that says which is which."""
    table = val / "val_annotations.txt"
    if not table.is_file():
        raise FileNotFoundError(
            f"{val} must have the file val_annotations.txt and the folder images, as "
            "Tiny-ImageNet is unpacked, or one sub-folder a class. Unpack "
            f"{TINY_IMAGENET_ARCHIVE} again."
        )
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    files, labels = [], []
    for line in table.read_text().splitlines():
        name, wnid = (*line.split("\t"), "")[:2]
        if wnid not in label_of:
            continue
        if not (val / "images" / name).is_file():
            raise FileNotFoundError(
                f"{val / 'images' / name} is missing, and {table} lists it. Unpack "
                f"{TINY_IMAGENET_ARCHIVE} again."
            )
        files.append(val / "images" / name)
        labels.append(label_of[wnid])
    absent = [wnid for wnid, label in label_of.items() if label not in labels]
    if absent:
        raise ValueError(
            f"{table} lists no image of {', '.join(absent[:5])}. Unpack "
            f"{TINY_IMAGENET_ARCHIVE} again."
        )
    return files, labels


# Folders and files


def _class_names(root):
    names = sorted(p.name for p in root.iterdir() if p.is_dir())
    names = [name for name in names if not name.startswith(".")]
    if len(names) < 2:
        raise ValueError(
            f"{root} must have one sub-folder of images a class, at least two. "
            f"Found: {names}"
        )
    return names


def _chosen_names(root, classes):
    names = _class_names(root)
    return [names[c] for c in chosen_classes(classes, names)]


def _files_of_classes(root, names):
    files, labels = [], []
    for label, name in enumerate(names):
        # Sub-folders included: Tiny-ImageNet keeps its images one level deeper.
        found = [
            p
            for p in sorted((root / name).rglob("*"))
            if p.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not found:
            raise ValueError(
                f"{root / name} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}). "
                "Add some, or remove the folder."
            )
        files += found
        labels += [label] * len(found)
    return files, labels


def _hold_out(labels, names, test_fraction, seed):
    if not 0 < test_fraction < 1:
        raise ValueError(
            "`test_fraction` must be between 0 and 1. "
            f"Received: test_fraction={test_fraction}"
        )
    generator = np.random.default_rng(seed)
    train, test = [], []
    for c, name in enumerate(names):
        indices = generator.permutation(np.flatnonzero(labels == c))
        if len(indices) < 2:
            raise ValueError(
                f"Class {name!r} has one image, and training and testing need one "
                "each. Add images, or give separate folders `train` and `test`."
            )
        num_test = min(max(1, round(test_fraction * len(indices))), len(indices) - 1)
        test.append(indices[:num_test])
        train.append(indices[num_test:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


# Images


def _read_both(train, test, image_size):
    """Reads training and test images as one, so that they get the same channels."""
    (train_files, y_train), (test_files, y_test) = train, test
    images = _read_images(train_files + test_files, image_size)
    x_train, x_test = images[: len(train_files)], images[len(train_files) :]
    return x_train, y_train, x_test, y_test


def _read_images(files, image_size):
    from PIL import Image

    def opened(file, mode=None):
        try:
            with Image.open(file) as image:
                return image.convert(mode) if mode else (image.mode, image.size)
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(
                f"{file} cannot be read as an image: {error}. Replace or remove it."
            ) from error

    headers = [opened(file) for file in files]
    for file, (mode, _) in zip(files, headers, strict=True):
        if mode[0] in "IF":
            raise ValueError(
                f"{file} has more than 8 bits a channel (Pillow mode {mode}). Convert "
                "it to 8 bits."
            )
    gray = all(mode in ("1", "L") for mode, _ in headers)
    if image_size is None:
        size = headers[0][1]
        for file, (_, other) in zip(files, headers, strict=True):
            if other != size:
                raise ValueError(
                    f"Images must have one size: {files[0]} is {size[0]}x{size[1]}, "
                    f"{file} is {other[0]}x{other[1]}. Pass `image_size` to resize "
                    "them."
                )
    else:
        height, width = height_and_width(image_size)
        size = width, height
    out = np.empty((len(files), size[1], size[0], 1 if gray else 3), np.uint8)
    for i, file in enumerate(files):
        image = opened(file, "L" if gray else "RGB")
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        out[i] = np.asarray(image).reshape(out.shape[1:])
    return out


def height_and_width(image_size):
    """An image size as `(height, width)`, or a `ValueError`."""
    size = (image_size, image_size) if np.ndim(image_size) == 0 else tuple(image_size)
    if len(size) != 2 or any(int(s) != s or s < 1 for s in size):
        raise ValueError(
            "`image_size` must be a positive integer or (height, width). "
            f"Received: image_size={image_size}"
        )
    return int(size[0]), int(size[1])


def resize(images, height, width):
    """Resizes an array of uint8 images."""
    if images.shape[1:3] == (height, width):
        return images
    from PIL import Image

    def resized(plane):
        # BILINEAR in Pillow averages when it makes an image smaller.
        image = Image.fromarray(plane)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))

    # Channel by channel, so that any number of channels will do.
    channels = range(images.shape[-1])
    return np.stack(
        [np.stack([resized(image[..., c]) for c in channels], -1) for image in images]
    )
