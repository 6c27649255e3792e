"""Which files of a folder are the images of which class, and of which part."""

import collections
import dataclasses
import difflib
import os
import pathlib
import re

from keras_robustlt.class_names import composed
from keras_robustlt.data.findings import ERROR, NOTE, WARNING
from keras_robustlt.data.images import is_image, suffixes
from keras_robustlt.data.selection import chosen_classes

# Words in the name of a folder that say which part of the data it holds, and words
# that may stand beside them.
ROLES = {
    "train": ("training", "train"),
    "validation": ("validation", "validate", "valid", "val", "dev"),
    "test": ("testing", "test", "holdout"),
}
FILLERS = "datasets|dataset|data|set|images|image|imgs|img|folder|split|part|files"
# What systems and programs leave behind.
LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN"}
# Files about images, which are expected beside them.
COMPANIONS = {
    *(".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".md", ".html"),
    *(".ini", ".db", ".log", ".xlsx", ".xls", ".py", ".ipynb", ".pdf", ".url"),
}
NO_CLASS = re.compile(
    r"images?|labels?|masks|annotations?|unlabell?ed|unsup|new folder.*|.*\bcopy\b.*",
    re.IGNORECASE,
)


@dataclasses.dataclass
class Layout:
    """Files of each part, as lists of paths and of labels.

    The parts are `"train"`, `"test"` and perhaps `"validation"`, or `"all"` where
    there is nothing to tell them apart.
    """

    class_names: list
    parts: dict = dataclasses.field(default_factory=dict)


def find_layout(root, classes, check):
    """The `Layout` of a folder of class folders, in parts or not."""
    parts = _find_parts(root, check)
    if not parts:
        parts = {"all": root}
    for folder in dict.fromkeys([root, *parts.values()]):
        _note_lost_folders(folder, check)
    first = next(iter(parts.values()))
    known = list(map(composed, class_folders(first)))
    for folder in parts.values():
        _same_classes(first, known, folder)
        _note_loose_images(folder, check)
    names = [known[c] for c in chosen_classes(classes, known)]
    _note_names(names, check)
    layout = Layout(names)
    for part, folder in parts.items():
        # As they are written there: each part may have been packed elsewhere.
        of_name = {composed(path.name): path.name for path in _subfolders(folder)}
        written = [of_name[name] for name in names]
        layout.parts[part] = images_of_classes(folder, written, check)
    return layout


# Parts


def role_of(name):
    """Which part a folder of this name holds, and the rest of the name.

    Example: `("train", "")` of `"Training_set"`, `("test", "seg")` of `"seg_test"`,
    and `(None, "benign")` of `"benign"`.
    """
    role, rest = None, []
    for word in re.findall(r"[a-z]+", name.lower()):
        bare = re.fullmatch(rf"({FILLERS})*(.*?)({FILLERS})*", word).group(2)
        roles = [key for key, words in ROLES.items() if bare in words]
        if roles and role is None:
            role = roles[0]
        elif bare:
            rest.append(word)
    return role, " ".join(rest)


def _find_parts(root, check):
    """The folders of training, validation and test images, if `root` has any."""
    folders = _subfolders(root)
    named = [(*role_of(folder.name), folder) for folder in folders]
    roles_of_rest = collections.defaultdict(set)
    for role, rest, _ in named:
        roles_of_rest[rest].add(role)
    # `seg_train` is a part if there is `seg_test`, and `train station` a class.
    found = [
        (role, folder)
        for role, rest, folder in named
        if role and (not rest or len(roles_of_rest[rest] - {None}) > 1)
    ]
    roles = {role for role, _ in found}
    divided = any(_subfolders(folder) for _, folder in found)
    shown = ", ".join(folder.name for _, folder in found)
    if not found or (len(roles) == 1 and not divided):
        for role, folder in found:
            check.add(
                WARNING if role == "test" else NOTE,
                "suspicious name",
                f"{folder} is read as a class of that name. If it is a part of the "
                "data, its images must be in one sub-folder a class.",
                [folder],
            )
        _note_equal_subfolders(folders, check)
        return {}
    if not divided:
        raise ValueError(
            f"{root} has the folders {shown}, which seem to be parts of the data and "
            "not classes, but their images are not in sub-folders. Give each one "
            "sub-folder a class."
        )
    if len(roles) < len(found):
        raise ValueError(
            f"{root} has several folders for one part of the data: {shown}. Put the "
            "images of each part together."
        )
    parts = dict(sorted(found, key=lambda pair: list(ROLES).index(pair[0])))
    if "train" not in parts:
        raise ValueError(
            f"{root} has {shown}, and no folder `train`. Add it, or pass the path of "
            "the folder with the classes."
        )
    if len(parts) == 1:
        raise ValueError(
            f"{root} has a folder `{shown}` but neither `test` nor `val`. Add one, or "
            f"pass the path of `{shown}` itself to hold test images out of it."
        )
    if "test" not in parts:
        parts["test"] = parts.pop("validation")
    unread = [folder for folder in folders if folder not in parts.values()]
    if unread:
        check.add(NOTE, "not read", "Folders beside the parts of the data.", unread)
    return parts


def _note_equal_subfolders(folders, check):
    """Notes folders that may be parts of the data under misspelt or foreign names."""
    inside = [{path.name for path in _subfolders(folder)} for folder in folders]
    if (
        len(folders) > 1
        and len(inside[0]) > 1
        and inside.count(inside[0]) == len(inside)
    ):
        misspelt = all(_is_like_a_part(folder.name) for folder in folders)
        check.add(
            WARNING if misspelt else NOTE,
            "suspicious name",
            "Folders that are read as classes have the same sub-folders. If they are "
            "the parts of the data, call them `train`, `test` and `val`.",
            folders,
        )


def _is_like_a_part(name):
    words = [word for words in ROLES.values() for word in words]
    return bool(difflib.get_close_matches(name.lower(), words, cutoff=0.7))


def _same_classes(first, names, folder):
    differ = set(names) ^ {composed(path.name) for path in _subfolders(folder)}
    if differ:
        differ = sorted(differ)
        raise ValueError(
            f"{folder} must have the same sub-folders, one a class, as {first}. Only "
            f"one of them has: {', '.join(differ[:5])}"
            f"{' ...' if len(differ) > 5 else ''}"
        )


# Classes


def class_folders(root):
    """The names of the class folders in `root`, at least two."""
    names = [folder.name for folder in _subfolders(root)]
    if len(names) < 2:
        inside = " and ".join(
            f"{len(_subfolders(root / name))} folders inside that" for name in names
        )
        raise ValueError(
            f"{root} must have one sub-folder of images a class, at least two. "
            f"Found: {names}{inside and f' (with {inside})'}"
        )
    alike = collections.Counter(map(composed, names))
    same = [name for name in names if alike[composed(name)] > 1]
    if same:
        raise ValueError(
            f"{root} has sub-folders whose names are the same but for the way in which "
            f"accents are written: {', '.join(map(ascii, same))}. Put their images "
            "together, or rename them."
        )
    return names


def _note_names(names, check):
    alike = collections.defaultdict(list)
    for name in names:
        alike[" ".join(name.lower().split())].append(name)
    for same in alike.values():
        if len(same) > 1:
            check.add(
                WARNING,
                "similar classes",
                "Classes whose names differ in case or spaces only.",
                map(repr, same),
            )
    odd = [name for name in names if NO_CLASS.fullmatch(name.strip())]
    if odd:
        check.add(
            WARNING,
            "suspicious name",
            f"Folders that are read as classes: {', '.join(odd)}. Move them elsewhere "
            "if they are none.",
            odd,
        )
    spaced = [name for name in names if name != name.strip()]
    if spaced:
        check.add(
            NOTE,
            "spaces",
            "Class names that begin or end with spaces.",
            map(repr, spaced),
        )
    numbers = [name for name in names if name.isascii() and name.isdigit()]
    if numbers != sorted(numbers, key=int):
        check.add(
            NOTE,
            "order",
            "Classes are in the order of the alphabet, so that 10 comes before 2 and "
            "a label is not the number in the name.",
            numbers,
        )


def _note_loose_images(folder, check):
    loose = [
        p for p in _listed(folder) if p.is_file() and p.suffix.lower() in suffixes()
    ]
    if loose:
        check.add(
            WARNING,
            "in no class",
            f"{len(loose)} images lie in {folder} itself, in no class, and are not "
            "read.",
            loose,
        )


def _note_lost_folders(folder, check):
    """Notes what may be meant as a class or a part, and cannot be read as one."""
    broken = [p for p in _listed(folder) if p.is_symlink() and not p.exists()]
    if broken:
        check.add(
            WARNING,
            "broken link",
            f"Links in {folder} that lead nowhere, and are not read.",
            broken,
        )
    hidden = [p for p in folder.iterdir() if _is_hidden(p.name) and _has_images(p)]
    if hidden:
        check.add(
            NOTE,
            "hidden",
            f"Hidden folders of images in {folder}, which are not read.",
            sorted(hidden),
        )


def _has_images(folder):
    try:
        return any(path.suffix.lower() in suffixes() for path in folder.iterdir())
    except OSError:  # no folder, or one that only the system may read
        return False


# Files


def images_of_classes(root, names, check):
    """The images in the folders `names` of `root`, and their labels."""
    files, labels, empty, unread = [], [], [], collections.defaultdict(list)
    for label, name in enumerate(names):
        _refuse_parts_in_class(root / name)
        found = [
            path
            for path in _files_below(root / name)
            if _belongs(path, root / name, unread)
        ]
        if not found:
            empty.append(root / name)
        files += found
        labels += [label] * len(found)
    _note_unread(unread, check)
    if empty:
        check.add(
            ERROR,
            "empty class",
            f"Class folders in {root} without images in a format that Pillow reads. "
            "Add some, or remove the folders.",
            empty,
        )
    return files, labels


def _refuse_parts_in_class(folder):
    parts = [sub for sub in _subfolders(folder) if role_of(sub.name)[0]]
    if len({role_of(sub.name)[0] for sub in parts}) > 1:
        raise ValueError(
            f"{folder} has the sub-folders {', '.join(sub.name for sub in parts)}. "
            "Parts of the data come first: train/CLASS and test/CLASS."
        )


def _belongs(path, folder, unread):
    """Whether `path` is read as an image; if not, it is put in `unread`."""
    suffix = path.suffix.lower()
    if any(_is_hidden(part) for part in path.relative_to(folder).parts):
        unread["hidden"].append(path)
    elif suffix in suffixes() and (path.is_file() or path.is_symlink()):
        return True
    elif suffix in COMPANIONS:
        unread["companion"].append(path)
    elif path.is_file() and is_image(path):
        unread["renamed"].append(path)
        return True
    else:
        unread["unknown"].append(path)
    return False


def _note_unread(unread, check):
    kinds = collections.Counter(
        path.suffix.lower() or "none" for path in unread["unknown"]
    )
    shown = ", ".join(f"{suffix} ({count})" for suffix, count in kinds.most_common(5))
    for key, severity, kind, message in (
        ("hidden", NOTE, "hidden", "Hidden files, which are not read."),
        ("companion", NOTE, "no image", "Files beside the images that are none."),
        ("renamed", NOTE, "suffix", "Images without the suffix of their format."),
        (
            "unknown",
            WARNING,
            "unknown format",
            f"{len(unread['unknown'])} files in class folders are in no format that "
            f"Pillow reads, and are left out. Their suffixes: {shown}. Convert them "
            "if they are images.",
        ),
    ):
        if unread[key]:
            check.add(severity, kind, message, unread[key])


def _files_below(folder):
    """All files below `folder`, sorted; links are followed, but not in circles."""
    seen = {os.path.realpath(folder)}
    above = pathlib.Path(os.path.realpath(folder)).parents
    files = []
    for place, names, found in os.walk(folder, followlinks=True, onerror=_raise):
        place = pathlib.Path(place)
        files += [place / name for name in found]
        for name in list(names):
            real = os.path.realpath(place / name)
            if real in seen or pathlib.Path(real) in above:
                names.remove(name)
            seen.add(real)
    return sorted(files)


def _raise(error):
    raise error


def _listed(folder):
    """What is in `folder` and not hidden, sorted."""
    return sorted(path for path in folder.iterdir() if not _is_hidden(path.name))


def _subfolders(folder):
    return [path for path in _listed(folder) if path.is_dir()]


def _is_hidden(name):
    return name.startswith(".") or name in LITTER
