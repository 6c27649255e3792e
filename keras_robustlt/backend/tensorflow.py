"""TensorFlow: variables are read and assigned inside the graph."""

import warnings

import tensorflow as tf

# What a layer that stops the gradient gives, as in JAX; the default is None.
ZERO = tf.UnconnectedGradients.ZERO


def choose(chosen, images, others):
    # Where `tf.where` broadcasts the booleans, its CPU kernel takes ten times as long.
    return tf.compat.v1.where(chosen, images, others)


def gradient(function, x):
    # Watching `x` alone keeps the gradients of the weights from being computed.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x, unconnected_gradients=ZERO)


def gradient_and_outputs(function, x):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value, outputs = function(x)
    return tape.gradient(value, x, unconnected_gradients=ZERO), outputs


def on_accelerator():
    return bool(tf.config.list_logical_devices("GPU")) or bool(
        tf.config.list_logical_devices("TPU")
    )


def of_shape(images, shape):
    # A graph that has met several sizes is traced again for any.
    sizes = zip(shape, images.shape, strict=True)
    open_ = [i for i, (want, known) in enumerate(sizes) if want and known is None]
    checks = [
        tf.debugging.assert_equal(
            tf.shape(images)[i],
            shape[i],
            f"`x` must hold images of shape {tuple(shape[1:])}, as the network takes "
            "them. Received others",
        )
        for i in open_
    ]
    if not checks:
        return images
    with tf.control_dependencies(checks):
        return tf.ensure_shape(tf.identity(images), shape)


def as_many(values, others, message):
    known = values.shape[0], others.shape[0]
    if None not in known:
        if known[0] != known[1]:
            raise ValueError(message)
        return values
    sizes = tf.shape(values)[0], tf.shape(others)[0]
    with tf.control_dependencies([tf.debugging.assert_equal(*sizes, message)]):
        return tf.identity(values)


def compiled(function, variables):
    del variables  # a graph reads them at each call
    # Layers and all of this package are traced as they are, as in Keras's own steps:
    # AutoGraph would find nothing to convert, and take most of the time for that.
    return tf.function(
        function, jit_compile=on_accelerator(), reduce_retracing=True, autograph=False
    )


def traceable(function):
    if tf.executing_eagerly():
        return function
    return tf.function(lambda x: function(x))  # with AutoGraph


def _check_for_replicas(optimizer):
    """Raises or warns if an optimizer does not do with replicas what it does alone."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    overwrites = optimizer.use_ema and optimizer.ema_overwrite_frequency
    for name, value in (
        ("gradient_accumulation_steps", optimizer.gradient_accumulation_steps),
        ("ema_overwrite_frequency", overwrites or None),
    ):
        if value is not None:
            raise ValueError(
                f"`{name}` of the optimizer does not run with several replicas: Keras "
                "cannot compile it under a tf.distribute strategy. "
                f"Received: {name}={value}"
            )
    clips = optimizer.clipnorm or optimizer.global_clipnorm or optimizer.clipvalue
    if clips and not getattr(optimizer, "clips_the_sum", False):
        warnings.warn(
            f"{type(optimizer).__name__} of Keras clips the gradients of each replica "
            "before it adds them up, so that the numbers are not those of one device. "
            "The SGD and AdamW of keras_robustlt.optimizers clip the sum.",
            stacklevel=4,
        )


class StepAdapter:
    def compile(self, *args, **kwargs):
        steps = kwargs.get("steps_per_execution", 1)
        if steps != 1 and self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "`steps_per_execution` must be 1 with several replicas: Keras does not "
                "run more under a tf.distribute strategy. "
                f"Received: steps_per_execution={steps}"
            )
        if self.distribute_strategy.num_replicas_in_sync > 1:
            _check_for_replicas(kwargs["optimizer"])
        super().compile(*args, **kwargs)

    def train_step(self, data):
        batch, shift = self.prepare_step(data)
        for weight, change in shift:
            weight.assign_add(change)
        logs = super().train_step(batch)
        for weight, change in shift:
            weight.assign_sub(change)
            if weight.constraint is not None:  # it held where the update was made
                weight.assign(weight.constraint(weight))
        self.end_step(batch)
        return self._for_workers(logs)

    def test_step(self, data):
        logs = super().test_step(self.evaluation_batch(data))
        return self._for_workers(logs)

    # What Keras's `fit` lacks for `MultiWorkerMirroredStrategy` (keras issue 20585)

    def _for_workers(self, logs):
        """Logs as Keras averages them over workers: along their first axis."""
        if not self._has_workers():
            return logs
        return {name: tf.reshape(value, (1,)) for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        replicas = self.distribute_strategy.num_replicas_in_sync
        if iterator is not None and replicas > 1:
            # Keras would average the images of all replicas, for their shape, and
            # some may have fewer than others.
            for _, _, batches in iterator:
                data_batch = tf.nest.map_structure(
                    lambda x: self.distribute_strategy.experimental_local_results(x)[0],
                    next(batches),
                )
                break
            iterator = None
        super()._maybe_symbolic_build(iterator, data_batch)

    def _has_workers(self):
        strategy = self.distribute_strategy
        return (
            isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
            and strategy.extended._in_multi_worker_mode()
        )
