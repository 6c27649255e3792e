"""What an evaluation has done so far, in a file from which it can go on."""

import hashlib
import io
import json
import pathlib
import zipfile

import numpy as np
from keras import ops

from keras_robustlt.attacks import active_set
from keras_robustlt.files import write_atomically

__all__ = ["Cache", "NoCache", "Outcome"]

# So many images are classified to see whether the network is the same one.
PROBES = 4


class Outcome:
    """What an attack did to some images.

    Args:
        stages: List of strings: the names of the attack's stages.
        predicted: Integer array of shape `(stages, examples)`: the classes that the
            attacked images are taken for.
        seconds: Array of shape `(stages,)`.
    """

    def __init__(self, stages, predicted, seconds):
        self.stages = list(stages)
        self.predicted = predicted
        self.seconds = seconds

    @classmethod
    def joined(cls, parts):
        """The outcome of one attack on all images, from those on their chunks."""
        predicted = np.concatenate([part.predicted for part in parts], axis=1)
        return cls(parts[0].stages, predicted, sum(part.seconds for part in parts))

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
            weights do not tell, its logits do.
        images: Float32 array, some of the images.

    Raises:
        ValueError: If the file is of another evaluation, or no such file.
    """

    def __init__(self, path, what, network, images):
        self.path = pathlib.Path(path)
        if self.path.suffix != ".npz" or self.path.is_dir():
            raise ValueError(
                "`cache` must be the path of a file whose name ends in .npz. "
                f"Received: cache={str(path)!r}"
            )
        # Through JSON, so that it compares with what is read back.
        what = json.loads(json.dumps(what, default=repr))
        what["network"] = _weights(network)
        logits = active_set.logits_of(network)(ops.convert_to_tensor(images[:PROBES]))
        logits = ops.convert_to_numpy(logits)
        self._logits_differ = False
        if not self.path.exists():
            self._arrays = {"what": np.array(json.dumps(what)), "logits": logits}
            return
        try:
            with np.load(self.path) as arrays:
                self._arrays = dict(arrays)
            before = json.loads(str(self._arrays["what"]))
            logits_before = self._arrays["logits"]
        except (EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                "`cache` must be a file that `evaluate` wrote, or a new one. "
                f"Received: cache={str(path)!r} ({type(error).__name__}: {error})"
            ) from None
        changed = [
            f"{key} ({_short(before.get(key))} there, {_short(what.get(key))} now)"
            for key in sorted({*before, *what})
            if before.get(key) != what.get(key)
        ]
        if changed:
            self._refuse(", ".join(changed))
        # Said only once the data are known to be the same: other images have other
        # logits anyway.
        self._logits_differ = logits.shape != logits_before.shape or not np.allclose(
            logits, logits_before, rtol=1e-2, atol=1e-2 * np.abs(logits_before).max()
        )

    def check_data(self, number, batches):
        """Raises if the chunk `number` is not the one that the outcomes are of."""
        digest = hashlib.sha256()
        for images, labels in batches:
            digest.update(str(images.shape).encode())
            digest.update(np.ascontiguousarray(images).tobytes())
            digest.update(np.ascontiguousarray(labels).tobytes())
        key = f"data/{number}"
        known = self._arrays.setdefault(key, np.array(digest.hexdigest()))
        if str(known) != digest.hexdigest():
            self._refuse(f"data (other images, labels or batches, in chunk {number})")
        if self._logits_differ:
            self._refuse("network (other logits for the same images)")

    def get(self, number, name):
        """The outcome of the attack `name` on the chunk `number`, or None."""
        key = _key(number, name)
        if f"{key}/predicted" not in self._arrays:
            return None
        stages, predicted, seconds = (
            self._arrays[f"{key}/{part}"] for part in ("stages", "predicted", "seconds")
        )
        return Outcome(stages.tolist(), predicted, seconds)

    def put(self, number, name, outcome):
        key = _key(number, name)
        self._arrays[f"{key}/stages"] = np.array(outcome.stages)
        self._arrays[f"{key}/predicted"] = outcome.predicted
        self._arrays[f"{key}/seconds"] = outcome.seconds
        content = io.BytesIO()
        np.savez(content, **self._arrays)
        write_atomically(self.path, content.getvalue())

    def _refuse(self, changed):
        raise ValueError(
            "`cache` holds what was done for another evaluation. What differs: "
            f"{changed}. Give another file, or delete this one. "
            f"Received: cache={str(self.path)!r}"
        )


def _key(number, name):
    return f"chunk/{number}/{name}"


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
