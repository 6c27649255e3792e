"""One training on several devices: what `--distribute` stands for.

The number of devices is no setting of a run: the numbers are those of one device, and
a run goes on with another number of them. On JAX, whose devices need equal parts, a
smaller last batch is left out, of training and of validation, with any number.
"""

import contextlib
import json
import os

DISTRIBUTE = ("none", "mirrored", "multiworker", "jax")
BACKENDS = {"mirrored": "tensorflow", "multiworker": "tensorflow", "jax": "jax"}


def scope(distribute, cpu_devices=None):
    """Begins training on the devices. Before anything else touches them.

    Args:
        distribute: One of `DISTRIBUTE`.
        cpu_devices: Integer. Split the CPU into so many devices, to try it out
            without accelerators. Defaults to `None`.

    Returns:
        A context manager: what is made in it is on all devices.
    """
    if distribute == "none":
        return contextlib.nullcontext()
    if distribute == "jax":
        return jax_devices(cpu_devices)
    import tensorflow as tf

    if cpu_devices:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * cpu_devices,
        )
    if distribute == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy().scope()
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices]).scope()


def check(distribute, cpu_devices=None):
    """Raises a ValueError if the flags do not go with the backend or with each other.

    Args:
        distribute: One of `DISTRIBUTE`.
        cpu_devices: Integer or `None`.
    """
    if distribute == "none":
        if cpu_devices is not None:
            raise ValueError(
                f"--cpu_devices={cpu_devices} does nothing without --distribute, such "
                "as --distribute=mirrored."
            )
        return
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend != BACKENDS[distribute]:
        raise ValueError(
            f"--distribute={distribute} is of another backend than {backend}: set "
            f"KERAS_BACKEND={BACKENDS[distribute]}."
        )
    if distribute == "multiworker" and not _names_a_worker(os.environ.get("TF_CONFIG")):
        received = os.environ.get("TF_CONFIG", "none")
        raise ValueError(
            "--distribute=multiworker needs TF_CONFIG in the environment of each "
            'process, such as {"cluster": {"worker": ["10.0.0.1:1234", '
            '"10.0.0.2:1234"]}, "task": {"type": "worker", "index": 0}}. On one '
            f"machine, use --distribute=mirrored. Received: TF_CONFIG={received}"
        )


def _names_a_worker(text):
    """Whether a TF_CONFIG has the addresses of workers, and which of them this is."""
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        addresses, index = cluster[task["type"]], task["index"]
        lists = list(cluster.values())
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return (
        task["type"] in ("chief", "worker")
        and all(isinstance(each, list) for each in lists)
        and all(isinstance(address, str) for each in lists for address in each)
        and type(index) is int
        and 0 <= index < len(addresses)
    )


def check_batches(distribute, batch_size, counts):
    """Raises a ValueError if a batch leaves a device without an image. In the scope.

    TensorFlow does not train then: its convolutions fail. JAX needs equal parts, and
    leaves out a smaller last batch.

    Args:
        distribute: One of `DISTRIBUTE`.
        batch_size: Integer.
        counts: List of integers, the images of each set that batches are made of.
    """
    if distribute == "none":
        return
    devices = _count(distribute)

    def suits(batch_size):
        if distribute == "jax":
            return batch_size % devices == 0
        sizes = {min(count, batch_size) for count in counts}
        sizes |= {count % batch_size or batch_size for count in counts}
        if distribute == "multiworker":
            return min(sizes) >= devices
        return all(_reaches_all(size, devices) for size in sizes)

    if suits(batch_size):
        return
    larger = range(batch_size + 1, batch_size + 2 * devices**2)
    better = next(filter(suits, larger), None)
    wrong = (
        f"has no equal parts for the {devices} devices of --distribute=jax"
        if distribute == "jax"
        else f"leaves some of the {devices} devices of --distribute={distribute} "
        f"without an image, in a batch of {' or '.join(map(str, counts))} images"
    )
    raise ValueError(
        f"--batch_size={batch_size} {wrong}: give another --batch_size"
        + (f", such as {better}." if better else ", or use fewer devices.")
    )


def _count(distribute):
    if distribute == "jax":
        import jax

        return jax.device_count()
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _reaches_all(size, devices):
    """Whether `mirrored` has images for all: each takes as many, while there are."""
    return -(-size // devices) * (devices - 1) < size


def jax_devices(cpu_devices):
    """All devices of all processes, which the KERAS_DISTRIBUTION_* variables name."""
    import jax
    import keras

    if cpu_devices:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        if jax.config.jax_platforms == "cpu":
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize()
    # Each process makes its share of the batches.
    return keras.distribution.DataParallel(auto_shard_dataset=False).scope()


def is_chief(distribute):
    """Whether this process writes the files and evaluates. After `scope`."""
    if distribute == "jax":
        import jax

        return jax.process_index() == 0
    if distribute != "multiworker":
        return True
    cluster = json.loads(os.environ["TF_CONFIG"])
    task = cluster["task"]
    first = "chief" if "chief" in cluster["cluster"] else "worker"
    return task["type"] == first and task["index"] == 0


def leave(distribute):
    """Ends the cluster, in every process: from here on each is on its own."""
    if distribute == "jax":
        import jax

        # Otherwise a process that has ended waits for the others, and JAX stops them
        # all after five minutes, in the middle of the chief's evaluation.
        if jax.process_count() > 1:
            jax.distributed.shutdown()


def shard(distribute):
    """Which part of each batch this process makes, `None` for whole ones."""
    if distribute != "jax":
        return None
    import jax

    return jax.process_index(), jax.process_count()
