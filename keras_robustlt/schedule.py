"""Where training stands, as variables that the compiled step reads."""

import keras
from keras import ops

from keras_robustlt import checks
from keras_robustlt.data.resumption import epoch_variables


class Schedule:
    """The clock that budgets and methods read.

    Its four integers are variables of the model: they are saved with it, a change is
    seen by the compiled step without tracing it again, and on every backend.

    Attributes:
        epoch: The current epoch, from 0.
        step: The current training step of this epoch, from 1; 0 before the first.
        epochs: The number of epochs of the whole training; 0 if not known yet.
        steps_per_epoch: The training steps of an epoch; 0 if not known yet.
    """

    def __init__(self, model):
        def counter(name):
            return model.add_weight(
                name=f"schedule_{name}",
                shape=(),
                # Keras's own kind: int32 variables stay on the host in TensorFlow,
                # where a step that XLA compiles for a GPU cannot read them.
                dtype="int",
                initializer="zeros",
                trainable=False,
            )

        self.epoch = counter("epoch")
        self.step = counter("step")
        self.epochs = counter("epochs")
        self.steps_per_epoch = counter("steps_per_epoch")

    def __setattr__(self, name, value):
        if name in vars(self):
            raise AttributeError(
                f"`{name}` of the schedule is a variable, which compiled steps read: "
                "use `start(epochs, steps_per_epoch)` and `begin_epoch(epoch)`, or "
                f"`model.schedule.{name}.assign(...)`. Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    @property
    def variables(self):
        return [self.epoch, self.step, self.epochs, self.steps_per_epoch]

    @property
    def length(self):
        """The number of epochs of the whole training, an integer."""
        return int(ops.convert_to_numpy(self.epochs))

    def start(self, epochs, steps_per_epoch=None):
        """Says how long training is."""
        self.epochs.assign(checks.integer("epochs", epochs, 0))
        steps = 0 if steps_per_epoch is None else steps_per_epoch
        steps = checks.integer("steps_per_epoch", steps, 0)
        self.steps_per_epoch.assign(steps)

    def begin_epoch(self, epoch):
        """Says that epoch `epoch`, counted from 0, begins."""
        self.epoch.assign(checks.integer("epoch", epoch, 0))
        self.step.assign(0)

    def advance(self):
        """Says that the next training step begins; called inside it."""
        self.step.assign_add(1)

    @property
    def begins_epoch(self):
        """Whether this step is the first of its epoch, a boolean scalar."""
        return ops.equal(self.step, 1)

    def close_epoch(self, *sums):
        """Takes sums over the images of an epoch, once that is complete.

        The first step of an epoch finds those of the epoch before, and empties them.

        Args:
            *sums: Variables that are 0 or more, of which the last says how many images
                they are of.

        Returns:
            A boolean scalar, whether an epoch with images is complete, and the list of
            its sums, zeros where none is.
        """
        begins = self.begins_epoch
        values = [ops.where(begins, each.value, 0.0) for each in sums]
        for each in sums:
            each.assign(ops.where(begins, 0.0, each.value))
        return ops.any(values[-1] > 0), values

    def position(self, granularity):
        """The iteration `t`, from 1, and the total `T`, as float32 scalars."""
        checks.one_of("granularity", granularity, ("epoch", "step"))
        epoch = ops.cast(self.epoch, "float32")
        total = ops.cast(self.epochs, "float32")
        if granularity == "epoch":
            return epoch + 1.0, total
        steps = ops.cast(self.steps_per_epoch, "float32")
        # Before the first step begins, what it will see.
        step = ops.maximum(ops.cast(self.step, "float32"), 1.0)
        return epoch * steps + step, total * steps


class ScheduleClock(keras.callbacks.Callback):
    """Keeps the model's schedule, and the order of its data, in step with `fit`."""

    def __init__(self, dataset=None):
        super().__init__()
        # Pipelines of this package draw their order from (seed, epoch): told the
        # epoch, they give the same batches after a restart.
        self.dataset_epochs = epoch_variables(dataset)

    def on_train_begin(self, logs=None):
        model = self.model
        steps = self.params.get("steps")
        if model.budget.granularity == "step" and not steps:
            raise ValueError(
                "granularity='step' needs the number of steps of an epoch, and the "
                "data set does not tell it. Pass `steps_per_epoch` to `fit`, or use "
                "granularity='epoch'."
            )
        self._length = model.total_epochs or self.params["epochs"], steps
        model.schedule.start(*self._length)

    def on_epoch_begin(self, epoch, logs=None):
        # Once more: weights that a callback has loaded bring the length of their own
        # training with them.
        self.model.schedule.start(*self._length)
        self.model.schedule.begin_epoch(epoch)
        for variable in self.dataset_epochs:
            variable.assign(epoch)

    def on_epoch_end(self, epoch, logs=None):
        if self.model.averaging is not None:
            self.model.averaging.end_epoch(self.model, logs or {})
