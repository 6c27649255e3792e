"""What the config.json of a run may hold, to those who read it."""

__all__ = ["check_entries"]

# What is read of a config.json, and of which types it may be.
KINDS = {
    "class_counts": list,
    "class_names": list,
    "epsilon": (int, float),
    "image_size": int,
    "num_classes": int,
    "on_bad": str,
    "seed": int,
}
KINDS_OF_ENTRIES = {"class_counts": (int, float), "class_names": str}


def check_entries(config):
    """Raises a ValueError if what is read of a config.json is not what it may be."""
    for name, kind in KINDS.items():
        value = (config if name in config else config["settings"]).get(name)
        if value is not None and (
            not isinstance(value, kind) or isinstance(value, bool)
        ):
            raise ValueError(f"its {name} is {value!r}")
        if name == "epsilon" and value is not None and not 0 <= value <= 1:
            raise ValueError(f"its epsilon is {value!r}, not of pixels in [0, 1]")
    for name in ("class_names", "class_counts"):
        for each in config.get(name) or ():
            if not isinstance(each, KINDS_OF_ENTRIES[name]):
                raise ValueError(f"its {name} hold {each!r}")
            if name == "class_counts" and not (each >= 1 and each == int(each)):
                raise ValueError(f"its class_counts hold {each!r}")
    counts, names = config.get("class_counts"), config.get("class_names")
    if counts and names and len(counts) != len(names):
        raise ValueError(f"it has {len(counts)} class_counts of {len(names)} classes")
