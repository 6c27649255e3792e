"""One batch on several replicas, as `tf.distribute` splits it among them.

A step then runs once on each replica, and sees its part of the batch. What a method
or a budget does looks at the batch as a whole, so the parts are put together for it:
the numbers are those of one device. On the other backends an array on several devices
is one array, and there is nothing to do.

Where several processes train one model, one of them is the chief, which writes files.
"""

import keras
import numpy as np
from keras import ops


def _context():
    """The replica context of the step, or None where one replica has the batch."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context and context.num_replicas_in_sync > 1 else None


def num_replicas():
    """How many replicas share the batch."""
    context = _context()
    return context.num_replicas_in_sync if context else 1


def gathered(tensors):
    """Tensors of this replica's images, as those of all images of the batch.

    Args:
        tensors: A structure of tensors of shape `(images, ...)`, or `None`s in it.

    Returns:
        The same structure. Gradients go back to the replica that has the image.
    """
    context = _context()
    if context is None:
        return tensors
    import tensorflow as tf

    def whole(part):
        # One by one: the gradient of several at once needs all to be of one shape.
        part = ops.convert_to_tensor(part)
        parts = context.all_gather(part, axis=0)
        return tf.ensure_shape(parts, (None, *part.shape[1:]))

    return keras.tree.map_structure(
        lambda part: None if part is None else whole(part), tensors
    )


def summed(tensors):
    """The sums over the replicas of a list of tensors."""
    context = _context()
    return context.all_reduce("SUM", tensors) if context and tensors else tensors


def drawn(draw, shape):
    """Random numbers for the images of this replica.

    Args:
        draw: A function of a shape. Each replica's generator is in the same state, so
            each draws for the whole batch and takes its part.
        shape: The shape of this replica's numbers, the first axis being its images.

    Returns:
        A tensor of that shape.
    """
    context = _context()
    if context is None:
        return draw(shape)
    sizes = gathered(ops.reshape(ops.convert_to_tensor(shape[0]), (1,)))
    first = ops.sum(sizes[: context.replica_id_in_sync_group])
    whole = draw((ops.sum(sizes), *shape[1:]))
    return whole[first : first + shape[0]]


def own_seed(seed):
    """A seed for this replica from one, of two integers, that all replicas have."""
    context = _context()
    if context is None:
        return seed
    replica = ops.cast(context.replica_id_in_sync_group, seed.dtype)
    return seed + ops.stack([replica << 16, ops.zeros_like(replica)])


def average_statistics(network, num_images):
    """Moving statistics become their mean over the replicas, by images.

    Args:
        network: The network, whose floating-point variables that are not trained
            they are.
        num_images: Integer scalar. The images that this replica has seen.
    """
    if num_replicas() == 1:
        return
    size = ops.cast(num_images, "float32")
    share = size / summed([size])[0]
    moving = [
        variable
        for variable in network.non_trainable_variables
        if keras.backend.is_float_dtype(variable.dtype)
    ]
    # Without an image there are no statistics.
    parts = [ops.where(size > 0, share * v.value, 0.0) for v in moving]
    for variable, mean in zip(moving, summed(parts), strict=True):
        variable.assign(mean)


def is_chief(model):
    """Whether this process writes the files of the training of `model`."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.process_index() == 0
    cluster = _cluster(model)
    if cluster is None:
        return True
    if cluster.task_type == "worker":
        return cluster.task_id == 0 and "chief" not in cluster.cluster_spec().jobs
    return cluster.task_type == "chief"


def of_all_processes(model, value):
    """What the integer `value` is in each of the processes that train `model`."""
    backend = keras.backend.backend()
    if backend == "jax":
        from jax.experimental import multihost_utils

        return np.ravel(multihost_utils.process_allgather(np.array(value))).tolist()
    if _cluster(model) is None:
        return [value]
    import tensorflow as tf

    gathered = model.distribute_strategy.gather(tf.constant([value]), axis=0)
    return gathered.numpy().tolist()


def check_equal_parts(num_images, batch_size):
    """Raises a ValueError if a batch cannot be cut into equal parts, as JAX needs."""
    distribution = keras.distribution.distribution()
    if keras.backend.backend() != "jax" or distribution is None:
        return
    import jax

    mesh = distribution.device_mesh
    parts = mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]
    parts = max(parts // jax.process_count(), 1)
    if batch_size % parts or num_images % batch_size % parts:
        raise ValueError(
            f"`batch_size` and the number of images must be multiples of {parts}, the "
            "number of this process's devices: JAX gives each an equal part of every "
            "batch, of the last one too. "
            f"Received: {num_images} images and batch_size={batch_size}"
        )


def _cluster(model):
    """The description of the cluster, None where there is one process."""
    strategy = getattr(model, "distribute_strategy", None)
    cluster = strategy and strategy.cluster_resolver
    return cluster if cluster and len(cluster.cluster_spec().as_dict()) else None
