"""The directory of a run: what it holds, and whether a run may go on in it.

    config.json      the settings, versions and device
    history.csv      a line an epoch
    schedule.csv     the budget of each class, a line an epoch
    skew_and_drift.csv  with --skew_and_drift: these, and the risk of each class
    checkpoints/     the state of training, from which the same command goes on
    network.keras    the trained network, plain Keras, without this package
    network-last.keras  with the last epoch's weights, where network.keras has an
                     average of weights or those of the best epoch
    evaluation.npz   what is done of the evaluation, as long as it goes on
    results.json     accuracy under each attack: all, tail, balanced, worst, per class
    examples.npz     a few images, what the attack makes of them, and what comes out
    schedule.png, accuracy.png
    report.html      all of this on a page

While a process trains or evaluates there, it also holds the file `lock`.
"""

import contextlib
import json
import os
import platform
import time

from keras_robustlt.data.images import suffixes
from keras_robustlt.experiments.presets import has_name
from keras_robustlt.files import (
    at_home,
    make_folder,
    refuse_other_than_file,
    write_atomically,
)
from keras_robustlt.reporting.runs import check_tables
from keras_robustlt.run_config import check_entries

# What a comparison leaves beside the directories of its runs.
COMPARISON = "comparison.txt"
OF_A_COMPARISON = ("comparison.png", "report.html")
# Where the runs of a sweep are.
OF_A_SWEEP = "*/*/seed*/config.json"
# What a run replaces or goes on with. It is its own beside config.json, or beside the
# state of training, of which training sees whether it is.
OF_A_RUN = (
    *("history.csv", "schedule.csv", "skew_and_drift.csv", "best.weights.h5"),
    *("network.keras", "network-last.keras", "evaluation.npz", "results.json"),
    *("examples.npz", "schedule.png", "accuracy.png", "report.html"),
)
# Settings that may be paths.
PATHS = ("data", "initial_weights", "backbone_weights")
STATE = "checkpoints/training_state.npz"

try:
    import fcntl
except ModuleNotFoundError:  # Windows: there, nothing is locked
    fcntl = None


def check(folder, settings):
    """Raises a ValueError if a run of these settings cannot work in `folder`."""
    check_place(folder, OF_A_RUN)
    if (folder / COMPARISON).exists():
        raise ValueError(
            f"--workdir={folder} holds a comparison, whose report a single run would "
            "replace. Give another --workdir."
        )
    is_trained = (folder / STATE).exists()
    if is_begun(folder, settings):
        _check_goes_on(folder)
    elif not is_trained:
        _refuse_sweep(folder)
        refuse_foreign(folder, OF_A_RUN, "config.json of a run")
    # The evaluation of a network that is still to be trained has not begun.
    if not (is_trained and (folder / "network.keras").exists()):
        refuse_foreign(folder, ["evaluation.npz"], "trained network of this run")


def check_comparison(folder, settings):
    """Raises a ValueError if a comparison cannot work in `folder`.

    Args:
        folder: Path.
        settings: Dictionary from its sub-folders to the settings of each run.
    """
    check_place(folder, (COMPARISON, *OF_A_COMPARISON))
    if (folder / "config.json").exists():
        raise ValueError(
            f"--workdir={folder} holds a single run, whose report a comparison would "
            "replace. Give another --workdir, or --nocompare to go on with the run."
        )
    if not any((folder / key / "config.json").exists() for key in settings):
        if not (folder / COMPARISON).exists():
            _refuse_sweep(folder)
            refuse_foreign(folder, OF_A_COMPARISON, "comparison")
    for key, each in settings.items():
        if is_finished(folder / key, each):
            check_tables(folder / key)  # for the report on both
        else:
            check(folder / key, each)


def _refuse_sweep(folder):
    if any(folder.glob(OF_A_SWEEP)):
        raise ValueError(
            f"--workdir={folder} holds the runs of a sweep. Give another --workdir."
        )


def refuse_foreign(folder, names, own):
    """Raises a ValueError if files of something else would be replaced in `folder`.

    Args:
        folder: Path.
        names: Strings, of the files that are written there.
        own: String, what is there where they are of this package.
    """
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise ValueError(
            f"--workdir={folder} holds no {own}, but {', '.join(there)}, of something "
            "else, which would be replaced. Give another --workdir, or move what is "
            "there."
        )


def check_place(folder, names):
    """Raises a ValueError if `folder` is no place for the files of runs.

    Args:
        folder: Path.
        names: Strings, of the files that are written there.

    Raises:
        OSError: If there is a folder in the place of a file.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise ValueError(f"--workdir={folder}: {there} is a file, not a directory.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--workdir={folder}: there is no permission to write there.")
    if _holds_classes(folder):
        raise ValueError(
            f"--workdir={folder} is a folder of images, whose classes the folders "
            "of a run would be. Give another --workdir."
        )
    for name in names:
        refuse_other_than_file(folder / name)


def _holds_classes(folder):
    """Whether all folders in `folder` hold images, and none is of a run."""
    if any(any(folder.glob(f"{depth}config.json")) for depth in ("", "*/", "*/*/")):
        return False
    inside = [path for path in folder.glob("[!.]*") if path.is_dir()]
    return len(inside) > 1 and all(map(_holds_images, inside))


def _holds_images(folder):
    """Whether there are images in `folder`, or in a folder of it, as of a split."""
    files = (file for depth in ("*", "*/*") for file in folder.glob(depth))
    return any(file.suffix.lower() in suffixes() for file in files)


def write_config(folder, content):
    """Writes config.json; `content` has the `"settings"`."""
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(folder / "config.json", text.encode())


def is_begun(folder, settings, fingerprint=None):
    """Whether `folder` holds the run of these settings, finished or not.

    Args:
        folder: Path.
        settings: Dictionary.
        fingerprint: String, of the data. Defaults to `None`, whatever they are.

    Raises:
        ValueError: If it holds a run of other settings, or of other data.
    """
    config = read_config(folder / "config.json")
    if config is None:
        return False
    before = config["settings"]
    differing = [
        f"  {key}: {before.get(key)} there, {settings.get(key)} now"
        for key in changed(before, settings)
    ]
    if differing:
        follows = "\nWhat no flag gives follows from the images: they may have changed."
        raise ValueError(
            f"{folder} holds a run with other settings:\n"
            + "\n".join(differing)
            + (follows if settings.get("preset") == "suggested" else "")
            + "\nGive another --workdir, the same settings (to go on with that "
            "run), or delete the directory."
        )
    known = config.get("fingerprint")
    if None not in (known, fingerprint) and known != fingerprint:
        raise ValueError(
            f"{folder} holds a run on other data: the images or labels of "
            f"{settings['data']} have changed since it began. Give another --workdir, "
            "or put the data back as they were, to go on with that run."
        )
    return True


def is_finished(folder, settings):
    """Whether `folder` holds the results of the run of these settings."""
    if not is_begun(folder, settings):
        return False
    try:
        results = json.loads((folder / "results.json").read_text("utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError):  # or cut short
        return False
    before = results.get("training") if isinstance(results, dict) else None
    return isinstance(before, dict) and not changed(before, settings)


def changed(before, now):
    """The names of the settings that differ; paths may be written differently."""
    if now.get("method") == "standard":  # where it does nothing, and could be said
        before = {**before, "batchnorm_statistics": now.get("batchnorm_statistics")}
    return [
        key
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
        and not (key in PATHS and _is_same_path(before.get(key), now.get(key)))
    ]


def _is_same_path(one, other):
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    if has_name(one) or has_name(other):
        return False
    one, other = (at_home(each).resolve() for each in (one, other))
    return one == other


def _check_goes_on(folder):
    """Raises a ValueError if a run that was begun cannot go on in its directory.

    Where its checkpoints are gone, its command would train it anew, over the network
    and the results that are there. A table that is damaged would be noticed by the
    report, after everything else.
    """
    if any((folder / "checkpoints").glob("*")):
        check_tables(folder)
    elif (folder / "network.keras").exists():
        raise ValueError(
            f"{folder} holds this run, trained, but not the checkpoints from which it "
            "would go on: training would begin anew and replace its network.keras. "
            "Use `evaluate` on that, or give another --workdir, or delete the "
            "directory to train again."
        )


def read_config(path):
    """What config.json says; `None` if it is not there."""
    try:
        config = json.loads(path.read_text("utf-8"))
        if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
            raise ValueError("it has no settings")
        check_entries(config)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (IsADirectoryError, ValueError) as error:
        raise _damaged(path, error) from None
    return config


def _damaged(path, why):
    return ValueError(
        f"{path} is damaged ({why}), or not of a run. Put back the file as it was, "
        f"give another --workdir, or delete {path.parent} to start over."
    )


def save_network(network, folder, name="network.keras"):
    """Writes a network; what is there is whole at any time."""
    temporary = folder / "network.tmp.keras"
    try:
        network.save(temporary)
        temporary.replace(folder / name)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def held(folder):
    """Keeps other runs out of `folder`, which is made if it is not there.

    The system releases the lock of a process that has ended, however it did. What
    fails before it trains leaves the folder as it was.

    Raises:
        ValueError: If another process holds it.
    """
    was_begun, before = (folder / "config.json").exists(), _trained(folder)
    path = folder / "lock"
    with made(folder):
        file = _lock(path)
        try:
            yield
        except BaseException:
            if not was_begun and _trained(folder) == before:
                (folder / "config.json").unlink(missing_ok=True)
            raise
        finally:
            path.unlink(missing_ok=True)  # as long as it is ours
            file.close()


def _trained(folder):
    """What changes when training in `folder` begins, and with each epoch."""
    state = folder / STATE
    return state.parent.exists(), state.exists() and state.stat().st_mtime_ns


@contextlib.contextmanager
def made(*folders):
    """Makes the folders that are not there; those that stay empty go again."""
    with_parents = [each for folder in folders for each in (folder, *folder.parents)]
    new = [each for each in dict.fromkeys(with_parents) if not each.exists()]
    for folder in folders:
        make_folder(folder)
    try:
        yield
    finally:
        for each in sorted(new, reverse=True):  # what is inside of others first
            with contextlib.suppress(OSError):  # those that hold something stay
                each.rmdir()


def _lock(path):
    """The file at `path`, locked by this process, which it names."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                raise ValueError(
                    f"{path.parent} is in use, by {file.read() or 'another process'}. "
                    "Wait for its end, or give another --workdir."
                ) from None
        except OSError:  # a file system without locks
            pass
        # Who held it may have removed it since it was opened.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()
    file.truncate(0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(f"process {os.getpid()} on {platform.node()}, since {since}")
    file.flush()
    return file
