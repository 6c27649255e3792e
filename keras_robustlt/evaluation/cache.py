"""What an evaluation has done so far, in a file from which it can go on."""

import hashlib
import json

import numpy as np
from keras import ops

from keras_robustlt.attacks import gradients
from keras_robustlt.files import local_path, make_folder, read_arrays, replacing

__all__ = ["Cache", "NoCache", "Outcome"]

# So many images are classified to see whether the network is the same one.
PROBES = 4
# How much of them may differ, as a share, in two computations of the same. Where a unit
# is just on or off the slope jumps.
TOLERATED = {"slopes": 0.1, "logits": 0.01}
# What is kept of an outcome.
PARTS = ("stages", "predicted", "seconds", "moved")


class Outcome:
    """What an attack did to some images.

    Args:
        stages: List of strings: the names of the attack's stages.
        predicted: Integer array of shape `(stages, examples)`: the classes that the
            attacked images are taken for.
        seconds: Array of shape `(stages,)`.
        moved: Float: by how much it changed a pixel at most. Defaults to NaN, where
            that is for the attack to say.
    """

    def __init__(self, stages, predicted, seconds, moved=np.nan):
        self.stages = list(stages)
        self.predicted = predicted
        self.seconds = seconds
        self.moved = float(moved)

    @classmethod
    def joined(cls, parts):
        """The outcome of one attack on all images, from those on their chunks."""
        predicted = np.concatenate([part.predicted for part in parts], axis=1)
        seconds = sum(part.seconds for part in parts)
        moved = max(part.moved for part in parts)
        return cls(parts[0].stages, predicted, seconds, moved)

    def rows(self):
        return zip(self.stages, self.predicted, self.seconds, strict=True)


class NoCache:
    """Keeps nothing."""

    def check_data(self, number, batches):
        pass

    def get(self, number, name):
        return None

    def put(self, number, name, outcome):
        pass


class Cache:
    """An `.npz` file with the outcome of each attack on each chunk.

    Args:
        path: String or path of the file.
        what: Dictionary: what else must be the same for outcomes to be of use.
        network: A Keras layer that gives logits, which must be the same too. What its
            weights do not tell, its logits and their gradients do.
        images: Float32 array, some of the images.

    Raises:
        ValueError: If the file is of another evaluation, or no such file.
    """

    def __init__(self, path, what, network, images):
        self.path = local_path("cache", path)
        self._sizes = {}
        if self.path.suffix != ".npz" or self.path.is_dir():
            raise ValueError(
                "`cache` must be the path of a file whose name ends in .npz. "
                f"Received: cache={str(path)!r}"
            )
        # Through JSON, so that it compares with what is read back.
        what = json.loads(json.dumps(what, default=repr))
        what["network"] = _weights(network)
        probes = ops.convert_to_tensor(images[:PROBES])
        now = {
            "logits": ops.convert_to_numpy(gradients.logits_of(network)(probes)),
            "slopes": ops.convert_to_numpy(gradients.of_logits(network, probes)),
        }
        self._differs = None
        if not self.path.exists():
            self._check_can_be_written()
            self._arrays = {"what": np.array(json.dumps(what)), **now}
            return
        try:
            self._arrays = read_arrays(self.path)
            before = json.loads(str(self._arrays["what"]))
            self._arrays.setdefault("slopes", now["slopes"])  # the first had none
            is_known = all(self._arrays[name].dtype.kind == "f" for name in now)
            if not isinstance(before, dict) or not is_known:
                raise ValueError("something else is in it")
        except (KeyError, ValueError) as error:
            raise self._damaged(error) from None
        changed = [
            f"{key} ({_short(before.get(key))} there, {_short(what.get(key))} now)"
            for key in sorted({*before, *what})
            if before.get(key) != what.get(key)
        ]
        if changed:
            self._refuse(", ".join(changed))
        # Said only once the data are known to be the same: other images have other
        # logits anyway.
        for name, tolerance in TOLERATED.items():
            if not _alike(now[name], self._arrays[name], tolerance):
                self._differs = name

    def _check_can_be_written(self):
        """Raises before an attack runs for nothing, but makes no folder yet."""
        try:
            make_folder(next(each for each in self.path.parents if each.exists()))
        except OSError as error:
            raise ValueError(
                "`cache` must be the path of a file that can be written. Received: "
                f"cache={str(self.path)!r} ({error})"
            ) from None

    def check_data(self, number, batches):
        """Raises if the chunk `number` is not the one that the outcomes are of."""
        digest = hashlib.sha256()
        self._sizes[number] = sum(len(labels) for _, labels in batches)
        for images, labels in batches:
            digest.update(str(images.shape).encode())
            digest.update(np.ascontiguousarray(images).tobytes())
            digest.update(np.ascontiguousarray(labels).tobytes())
        key = f"data/{number}"
        known = self._arrays.setdefault(key, np.array(digest.hexdigest()))
        if str(known) != digest.hexdigest():
            self._refuse(f"data (other images, labels or batches, in chunk {number})")
        if self._differs is not None:
            self._refuse(f"network (other {self._differs} for the same images)")

    def get(self, number, name):
        """The outcome of the attack `name` on the chunk `number`, or None."""
        parts = [f"{_key(number, name)}/{part}" for part in PARTS]
        there = [self._arrays[part] for part in parts if part in self._arrays]
        if not there:
            return None
        kinds = "".join(array.dtype.kind for array in there)
        shapes = [array.shape for array in there]
        n, size = there[0].size, self._sizes[number]
        if kinds != "Uiff" or shapes != [(n,), (n, size), (n,), ()]:
            raise self._damaged(f"of {parts[0]}")
        num_classes = self._arrays["logits"].shape[-1]
        if not np.all((-1 <= there[1]) & (there[1] < num_classes)):
            raise self._damaged(f"{parts[1]} holds what are no classes")
        return Outcome(there[0].tolist(), *there[1:])

    def put(self, number, name, outcome):
        values = outcome.stages, outcome.predicted, outcome.seconds, outcome.moved
        for part, value in zip(PARTS, values, strict=True):
            self._arrays[f"{_key(number, name)}/{part}"] = np.array(value)
        with replacing(self.path) as file:
            np.savez(file, **self._arrays)

    def _damaged(self, error):
        return ValueError(
            "`cache` is damaged, or a file of something else: give another path, or "
            "delete it if that is what it was. "
            f"Received: cache={str(self.path)!r} ({error})"
        )

    def _refuse(self, changed):
        raise ValueError(
            "`cache` holds what was done for another evaluation. What differs: "
            f"{changed}. Give another file, or delete this one. "
            f"Received: cache={str(self.path)!r}"
        )


def _key(number, name):
    return f"chunk/{number}/{name}"


def _alike(now, before, tolerance):
    """Whether two arrays are the same but for a share of their length."""
    if now.shape != before.shape:
        return False
    now, before = (np.nan_to_num(each.astype("float64")) for each in (now, before))
    return np.linalg.norm(now - before) <= tolerance * np.linalg.norm(before)


def _weights(network):
    digest = hashlib.sha256()
    for variable in network.weights:
        value = ops.convert_to_numpy(ops.cast(variable, "float32"))
        digest.update(str(value.shape).encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


def _short(value):
    text = json.dumps(value)
    return text if len(text) < 200 else text[:200] + "..."
