"""Tiny-ImageNet as it is unpacked, or with `val` sorted into class folders."""

from keras_robustlt.data.layout import Layout, class_folders, images_of_classes
from keras_robustlt.data.selection import chosen_classes

FOLDER = "tiny-imagenet-200"
ARCHIVE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def is_one(root):
    """Whether a folder is Tiny-ImageNet, as far as its files tell."""
    return (root / "wnids.txt").is_file() and _has_parts(root)


def _has_parts(root):
    return (root / "train").is_dir() and (root / "val").is_dir()


def find(root):
    """The folder of Tiny-ImageNet in `root`, or `root` itself."""
    places = [root / FOLDER, root]
    for place in places:
        if _has_parts(place):
            return place
    listed = "\n".join(f"  - {place}" for place in places)
    raise FileNotFoundError(
        f"tinyimagenet was not found. Looked for `train` and `val` in\n{listed}\n"
        f"To get it, unpack {ARCHIVE} (about 240 MB) into a folder "
        "DIR, and pass data_dir='DIR'."
    )


def layout(root, classes, check):
    """The `Layout` of `root`.

    Classes are in the order of their WordNet ids. The test images are those of `val`,
    as those of `test` are published without their labels.
    """
    wnids = class_folders(root / "train")
    listed = root / "wnids.txt"
    missing = sorted(set(_text(listed).split() if listed.is_file() else ()))
    missing = [wnid for wnid in missing if wnid not in wnids]
    if missing:
        raise FileNotFoundError(
            f"{root / 'train'} lacks {len(missing)} of the classes in {listed}, such "
            f"as {missing[0]}. Unpack {ARCHIVE} again."
        )
    names = _english_names(root / "words.txt", wnids)
    chosen = chosen_classes(classes, names)
    wnids = [wnids[c] for c in chosen]
    found = Layout([names[c] for c in chosen])
    found.parts["train"] = images_of_classes(root / "train", wnids, check)
    val = root / "val"
    if all((val / wnid).is_dir() for wnid in wnids):
        files, labels = images_of_classes(val, wnids, check)
    else:
        files, labels = _annotated_files(val, wnids)
    # By the name of the file, which mixes the classes: the first so many images are
    # a sample of all, and the same ones in either layout.
    order = sorted(range(len(files)), key=lambda i: files[i].name)
    found.parts["test"] = [files[i] for i in order], [labels[i] for i in order]
    return found


def _text(file):
    return file.read_text(encoding="utf-8", errors="replace")


def _english_names(file, wnids):
    """The first of the words for each id; the id, too, where that is not unique."""
    words = dict.fromkeys(wnids)
    if file.is_file():
        lines = _text(file).splitlines()
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
            f"{ARCHIVE} again."
        )
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    files, labels = [], []
    for line in _text(table).splitlines():
        name, wnid = (*line.split("\t"), "")[:2]
        if wnid not in label_of:
            continue
        if not (val / "images" / name).is_file():
            raise FileNotFoundError(
                f"{val / 'images' / name} is missing, and {table} lists it. Unpack "
                f"{ARCHIVE} again."
            )
        files.append(val / "images" / name)
        labels.append(label_of[wnid])
    absent = [wnid for wnid, label in label_of.items() if label not in labels]
    if absent:
        raise ValueError(
            f"{table} lists no image of {', '.join(absent[:5])}. Unpack "
            f"{ARCHIVE} again."
        )
    return files, labels
