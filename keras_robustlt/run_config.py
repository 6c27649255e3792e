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
RANGES = {
    "epsilon": (0, 1),  # in pixels of images in [0, 1]
    "image_size": (1, 2**31 - 1),
    "num_classes": (2, 2**31 - 1),
    "seed": (0, 2**32 - 1),
}


def check_entries(config):
    """Raises a ValueError if what is read of a config.json is not what it may be."""
    for name, kind in KINDS.items():
        value = (config if name in config else config.get("settings", {})).get(name)
        if value is not None and (
            not isinstance(value, kind) or isinstance(value, bool)
        ):
            raise ValueError(f"its {name} is {value!r}")
        low, high = RANGES.get(name, (None, None))
        if value is not None and low is not None and not low <= value <= high:
            raise ValueError(f"its {name} is {value!r}, and not from {low} to {high}")
        if name == "on_bad" and value not in (None, "error", "skip"):
            raise ValueError(f"its on_bad is {value!r}, and neither error nor skip")
    for name in ("class_names", "class_counts"):
        for each in config.get(name) or ():
            if not isinstance(each, KINDS_OF_ENTRIES[name]):
                raise ValueError(f"its {name} hold {each!r}")
            if name == "class_counts" and not (1 <= each <= 2**53 and each % 1 == 0):
                raise ValueError(f"its class_counts hold {each!r}")
            if name == "class_names" and not each.strip():
                raise ValueError(f"its class_names hold {each!r}")
    counts, names = config.get("class_counts"), config.get("class_names")
    if counts and names and len(counts) != len(names):
        raise ValueError(f"it has {len(counts)} class_counts of {len(names)} classes")
