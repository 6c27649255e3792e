"""The directory of a run: what it holds, and whether a run may go on in it.

config.json      the settings, versions and device
history.csv      a line an epoch
schedule.csv     the budget of each class, a line an epoch
checkpoints/     the state of training, from which the same command goes on
network.keras    the trained network, plain Keras, without this package
results.json     accuracy under each attack: all, tail, balanced, worst, per class
examples.npz     a few images, what the attack makes of them, and what comes out
schedule.png, accuracy.png
report.html      all of this on a page
"""

import json

from keras_robustlt.files import write_atomically


def write_config(workdir, content):
    """Writes config.json; `content` has the `"settings"`."""
    workdir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(workdir / "config.json", text.encode())


def is_begun(workdir, settings):
    """Whether `workdir` holds the run of these settings, finished or not.

    Raises:
        ValueError: If it holds a run of other settings.
    """
    path = workdir / "config.json"
    if not path.exists():
        return False
    before = json.loads(path.read_text("utf-8"))["settings"]
    changed = [
        f"  {key}: {before.get(key)} there, {settings.get(key)} now"
        for key in sorted({*before, *settings})
        if before.get(key) != settings.get(key)
    ]
    if changed:
        raise ValueError(
            f"{workdir} holds a run with other settings:\n"
            + "\n".join(changed)
            + "\nGive another --workdir, the same settings (to go on with that "
            "run), or delete the directory."
        )
    return True


def is_finished(workdir, settings):
    """Whether `workdir` holds the results of the run of these settings."""
    if not is_begun(workdir, settings):
        return False
    try:
        results = json.loads((workdir / "results.json").read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # not there, or cut short
        return False
    return results["training"] == settings
