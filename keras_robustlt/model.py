"""RobustLTModel: adversarial training on long-tailed data, as a Keras model.

A step of training reads from top to bottom in `training_batch`: what the budget of
each class is now, which images that gives, and what the network is asked about.
Keras's own `train_step` does the rest, with `call`, `compute_loss` and
`compute_metrics` as it always does, so that optimisers, metrics, callbacks, mixed
precision and distribution are Keras's own.
"""

import functools
import inspect

import keras
import numpy as np
from keras import ops

from keras_robustlt import attacks, backend, checks, losses, methods, metrics, networks
from keras_robustlt import averaging as weight_averaging
from keras_robustlt import budget as budgets
from keras_robustlt.backend import replicas
from keras_robustlt.batch_check import BatchCheck
from keras_robustlt.data.augmentation import AUGMENTATIONS, on_device
from keras_robustlt.schedule import Schedule, ScheduleClock

__all__ = ["RobustLTModel"]

BATCHNORM_STATISTICS = ("adversarial", "mixed")
ATTACK_STEPS = ("full", "adaptive")
SEEDS = ("start_seed", "evaluation_seed", "augmentation_seed")
# The images that a step hands to `call`, in the order of the forward passes.
INPUT_KEYS = ("adversarial", "robust", "clean")


@keras.saving.register_keras_serializable(package="keras_robustlt")
class RobustLTModel(backend.StepAdapter, keras.Model):
    """Trains a classifier to be robust, with a budget that is fair to rare classes.

    Wraps any Keras classifier that gives logits. `fit` trains it on adversarial
    examples whose budget depends on the class and grows along training (RobustLT);
    `evaluate` reports clean and robust accuracy of all, of tail and of the average
    class; `predict` gives the logits; `model.network` is the trained classifier.

    During `fit` the logs hold `loss` and `adversarial_accuracy`, the accuracy on the
    images trained on, and `clean_accuracy` where the step computes the logits of clean
    images anyway (`weighting` other than `"perturbation"`,
    `batchnorm_statistics="mixed"`, `method="standard"`). Metrics given to `compile`
    see the adversarial logits in `fit` and the clean ones in `evaluate`.

    Args:
        network: A `keras.Model` that maps images in `[0, 1]`, of shape
            `(batch, ...)`, to logits of shape `(batch, num_classes)`. Normalisation
            of the images belongs inside.
        class_counts: Integers of shape `(num_classes,)`: training images of each
            class.
        epsilon: Float. The base budget, in pixel units. Defaults to `8 / 255`.
        alpha: Float in `[0, 1]`. Strength of class-wise perturbation balancing; `0`
            is without. Defaults to `0.3`.
        beta: Float, not negative. The share of training over which adversarial
            iteration weighting raises the budget; `0` is without. Defaults to `0.8`.
        method: The base method: `"at"`, `"at_bsl"`, `"awp"`, `"cgr"`,
            `"class_balanced"`, `"focal"`, `"ldam"`, `"logit_adjusted"`, `"mart"`,
            `"reat"`, `"robal"`, `"standard"`, `"taet"`, `"trades"`, one with `"+awp"`
            behind it, or a `keras_robustlt.methods.Method`. Defaults to `"at"`.
        attack: The training attack. Defaults to `PGD(epsilon, steps=10)`, which steps
            by `epsilon / 4` from a random start.
        attack_steps: `"full"` or `"adaptive"`: fewer steps of the training attack
            while `w_t` is small, `ceil(w_t steps)` but at least 2, each longer so
            that together they go as far. Saves time on all backends but JAX on a CPU.
            Defaults to `"full"`.
        evaluation_attack: The attack of `evaluate` and of validation, always with
            the whole budget for all classes. Defaults to `PGD(epsilon, steps=20,
            step_size=epsilon / 8)`.
        granularity: `"epoch"` or `"step"`, see `budget.RobustLT`. Defaults to
            `"epoch"`.
        weighting: `"perturbation"`, `"loss"` or `"both"`, see `budget.RobustLT`.
            Defaults to `"perturbation"`.
        budget: Another rule than RobustLT's, in place of `alpha`, `beta`,
            `granularity` and `weighting`: `"uniform"`, `"cfa"`, `"dafa"` or a
            `keras_robustlt.budget.Budget`.
        augmentation: Random changes of the training images inside the step, on the
            device, for data that come as plain arrays: a name from
            `keras_robustlt.data.AUGMENTATIONS`. Pipelines of `data.long_tail` augment
            themselves. Defaults to `"none"`.
        batchnorm_statistics: Which images move the moving statistics of batch
            normalisation: `"adversarial"`, those trained on, or `"mixed"`, the clean
            ones too, for one more forward pass. Defaults to `"adversarial"`.
        total_epochs: Integer. The length of the whole schedule, where it is not the
            `epochs` of `fit`. Defaults to `None`.
        averaging: A second network with an average of the weights along training,
            `model.averaged_network`, which then evaluates and predicts: a float, the
            momentum of an exponential moving average, or a
            `keras_robustlt.averaging.WeightAveraging`. Defaults to `None`.
        tail_fraction: Float. The share of classes that is called the tail. Defaults
            to `0.8`.
        seed: Integer. Seed of the random starts. Defaults to `None`, which draws it
            from `keras.utils.set_random_seed`.
        name: String. The name of the model.

    Raises:
        ValueError: If an argument is out of range, `network` gives probabilities, or
            the number of its outputs is not that of `class_counts`.

    Example:

    ```python
    train, test, class_counts = krl.data.long_tail("digits", augmentation="none")
    network = krl.networks.SmallResNet(classes=10, input_shape=(8, 8, 1))
    model = krl.RobustLTModel(network, class_counts, epsilon=0.1)
    model.compile(optimizer=krl.optimizers.SGD(0.1, momentum=0.9, nesterov=True))
    model.fit(train, epochs=40)
    model.evaluate(test)
    ```

    Reference:
        Zhang et al., "Taming the Long Tail: Rebalancing Adversarial Training via
        Adaptive Perturbation", CVPR 2026.
    """

    def __init__(
        self,
        network,
        class_counts,
        epsilon=8 / 255,
        alpha=0.3,
        beta=0.8,
        method="at",
        attack=None,
        attack_steps="full",
        evaluation_attack=None,
        granularity="epoch",
        weighting="perturbation",
        budget=None,
        augmentation="none",
        batchnorm_statistics="adversarial",
        total_epochs=None,
        averaging=None,
        tail_fraction=0.8,
        seed=None,
        name=None,
    ):
        # Images, losses and attacks are float32; what precision the network computes
        # in is the network's own affair.
        super().__init__(name=name, dtype="float32")
        if not isinstance(network, keras.Model):
            raise ValueError(
                "`network` must be a keras.Model that gives logits. "
                f"Received: network={network!r} (of type {type(network).__name__})"
            )
        checks.logits_not_probabilities(network)
        self.network = network
        self.class_counts = checks.class_counts(class_counts)
        self.num_classes = len(self.class_counts)
        self.epsilon = checks.epsilon(epsilon, getattr(attack, "norm", "linf"))
        self.method = methods.get(method)
        self.attack = attack or attacks.PGD(self.epsilon)
        self.attack_steps = checks.one_of("attack_steps", attack_steps, ATTACK_STEPS)
        self.evaluation_attack = evaluation_attack or attacks.PGD(
            self.epsilon, 20, self.epsilon / 8, norm=self.attack.norm
        )
        for argument in ("attack", "evaluation_attack"):
            _runs_inside_a_step(argument, getattr(self, argument))
            if not np.isclose(getattr(self, argument).epsilon, self.epsilon):
                raise ValueError(
                    f"`{argument}` must have the epsilon of the model. Received: "
                    f"epsilon={self.epsilon} and {argument}.epsilon="
                    f"{getattr(self, argument).epsilon}"
                )
        self.budget = _budget(budget, alpha, beta, granularity, weighting)
        self.averaging = weight_averaging.get(averaging)
        self.augmentation = checks.one_of(
            "augmentation", augmentation, tuple(AUGMENTATIONS)
        )
        self.batchnorm_statistics = checks.one_of(
            "batchnorm_statistics", batchnorm_statistics, BATCHNORM_STATISTICS
        )
        self.total_epochs = total_epochs and checks.positive_integer(
            "total_epochs", total_epochs
        )
        self.tail_fraction = checks.in_range("tail_fraction", tail_fraction, 0, 1)
        self.seed = seed

        # Of which kind the current step is; the averaged network depends on it.
        self._evaluating = self._validating = False
        self.schedule = Schedule(self)
        self.start_seed = keras.random.SeedGenerator(seed)
        # Of its own, so that validation does not change what training draws.
        self.evaluation_seed = keras.random.SeedGenerator(seed)
        self.augmentation_seed = keras.random.SeedGenerator(seed)
        self.method.build(self)
        self.budget.build(self)
        if isinstance(self.attack, attacks.Attack):
            self.attack.build(self)
        if self.averaging is not None:
            self.averaging.build(self)
            self.averaged_network = weight_averaging.copy_of(network)
        if self.method.uses_features:
            self._with_features = _feature_networks(network, self.inference_network)
        wanted = set(self.method.inputs)
        if self.budget.uses_clean_loss or batchnorm_statistics == "mixed":
            wanted.add("clean")
        self._wanted = tuple(image for image in INPUT_KEYS if image in wanted)

        def accuracy(prefix):
            return metrics.ClasswiseAccuracy(
                self.class_counts, tail_fraction, f"{prefix}_", f"{prefix}_accuracy"
            )

        self.adversarial_accuracy = keras.metrics.Mean("adversarial_accuracy")
        self.clean_accuracy = accuracy("clean")
        self.robust_accuracy = accuracy("robust")
        self.batch_check = BatchCheck(self.num_classes)
        self._criterion = losses.cross_entropy
        self._tested = self.inference_network.name
        self.built = network.built
        if network.built and hasattr(network, "output_shape"):
            self._check_outputs(network.output_shape)

    # What happens in a step

    def prepare_step(self, data):
        """All that comes before Keras's training step.

        Args:
            data: A batch of `fit`.

        Returns:
            The `training_batch`, and the weights to move for the step's gradient, as
            `Method.weight_shift` gives them.
        """
        self.schedule.advance()
        self.method.begin_step(self.schedule)
        self.budget.begin_step(self.schedule)
        batch = self.training_batch(data)
        return batch, self.method.weight_shift(self, batch)

    def training_batch(self, data):
        """The batch that the network trains on, with its adversarial images.

        Args:
            data: A batch of `fit`: `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The batch with, in place of `x`, a dictionary of the images by name.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        checks.image_dtype(x)
        x = ops.cast(x, "float32")
        x = self._augmented(x)
        images = {"clean": x}
        if "adversarial" in self._wanted:
            class_epsilon = self.budget.class_epsilon(self.schedule)
            attacking = self.method.attacks(self.schedule)
            if attacking is not None:
                class_epsilon = ops.where(attacking, class_epsilon, 0.0)
            images["adversarial"] = self._training_attack(x, y, class_epsilon)
        return images, y, sample_weight

    def _augmented(self, x):
        if self.augmentation == "none":
            return x
        augment = on_device(self.augmentation, x.shape[1:])
        draw = functools.partial(
            keras.random.uniform, dtype="float32", seed=self.augmentation_seed
        )
        draws = replicas.drawn(draw, (ops.shape(x)[0], augment.num_draws))
        return augment(x, draws)

    def _training_attack(self, x, y, class_epsilon):
        targets = losses.one_hot(y, self.num_classes)
        start = self.attack.starting_point(x, self.epsilon, self.start_seed)
        epsilon = ops.matmul(targets, class_epsilon[:, None])[:, 0]

        def perturb():
            loss = self.method.attack_loss
            if self.method.attack_compares:
                clean = backend.frozen(self.network)(x, training=True)
                loss = functools.partial(loss, clean_logits=clean)
            return self.attack.perturb(
                self.network,
                x,
                targets,
                start,
                epsilon=epsilon,
                training=True,
                loss=loss,
                **self._fewer_steps(),
            )

        # Without a budget the attack gives the images themselves.
        adversarial = backend.run_if(ops.max(class_epsilon) > 0, perturb, x)
        if isinstance(self.attack, attacks.Attack):
            self.attack.update(x, adversarial, epsilon)
        return adversarial

    def _fewer_steps(self):
        """How many steps the training attack makes now, if not its own number."""
        if self.attack_steps == "full":
            return {}
        share = self.budget.iteration_weight(self.schedule)
        steps = ops.cast(ops.ceil(share * self.attack.steps), "int32")
        return {"steps": ops.maximum(steps, min(2, self.attack.steps))}

    def evaluation_batch(self, data):
        """The batch of `evaluate`, with its adversarial images."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        checks.image_dtype(x)
        x = ops.cast(x, "float32")
        x_adv = self.evaluation_attack(
            self.inference_network, x, y, seed=self.evaluation_seed
        )
        return {"robust": x_adv, "clean": x}, y, sample_weight

    def end_step(self, batch):
        """All that comes after Keras's training step.

        Args:
            batch: The `training_batch`.
        """
        images, _, _ = batch
        num_images = ops.shape(images["clean"])[0]
        replicas.average_statistics(self.network, num_images)
        keep = self.averaging and self.averaging.keep(self.schedule)
        if keep is not None:
            self.update_average(keep)

    def call(self, inputs, training=False):
        """Logits of images, or of each entry of a dictionary of images."""
        network = self.network if training else self.inference_network
        if not isinstance(inputs, dict):
            return network(inputs, training=training)
        if self.method.uses_features:
            network = self._with_features(network)
        wanted = self._wanted if training else inputs
        logits = {}
        for name in [image for image in INPUT_KEYS if image in wanted]:
            frozen = name == "clean" and training and not self._clean_moves_statistics
            forward = backend.frozen(network) if frozen else network
            outputs = forward(inputs[name], training=training)
            if self.method.uses_features:
                logits[name], logits[f"{name}_features"] = outputs
            else:
                logits[name] = outputs
        return {name: ops.cast(value, "float32") for name, value in logits.items()}

    @property
    def inference_network(self):
        """What evaluates and predicts: the averaged network where there is one."""
        averaging = self.averaging
        if averaging is None or (averaging.validates == "network" and self._validating):
            return self.network
        return self.averaged_network

    def update_average(self, keep):
        """Moves the averaged network, which keeps the share `keep`, to the network."""
        weight_averaging.move(self.averaged_network, self.network, keep)

    @property
    def _clean_moves_statistics(self):
        return self.batchnorm_statistics == "mixed" or self._wanted == ("clean",)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The method's loss on the logits, and the network's own regularisation."""
        self._check_outputs(next(iter(y_pred.values())).shape)
        targets = losses.one_hot(y, self.num_classes)
        targets, y_pred, sample_weight = replicas.gathered(
            (targets, y_pred, sample_weight)
        )
        logits = _attacked(y_pred, "robust") if "robust" in y_pred else y_pred
        loss = self.method.loss(targets, logits, self._criterion)
        if training:
            if "adversarial" in logits:
                self.budget.update(targets, logits["adversarial"])
            self.method.update(targets, logits)
            loss = self._weighted(loss, targets, logits)
        if len(loss.shape) == 0 and sample_weight is not None:
            raise ValueError(
                f"`sample_weight` has no meaning in {self.method}, whose loss is not a "
                "mean over examples. Received sample weights (or `class_weight`)."
            )
        if sample_weight is not None:
            loss = loss * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        extras = [ops.sum(ops.cast(extra, "float32")) for extra in self.losses]
        # The gradients of the replicas will be added up.
        return (ops.mean(loss) + sum(extras)) / replicas.num_replicas()

    def _weighted(self, loss, targets, logits):
        """The loss with the budget's weights, of the clean loss and of the classes."""
        weight = self.budget.loss_weight(self.schedule)
        if weight is not None:
            clean = _attacked(logits, "clean")
            clean_loss = self.method.loss(targets, clean, self._criterion)
            loss = weight * loss + (1.0 - weight) * clean_loss
        class_weight = self.budget.class_weight(self.schedule)
        if class_weight is not None:
            if len(loss.shape) == 0:
                raise ValueError(
                    f"{self.budget} weighs the losses of examples, and the loss of "
                    f"{self.method} is not a mean over examples."
                )
            loss = ops.sum(targets * class_weight, axis=-1) * loss
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics of this kind of step, and gives their results."""
        if isinstance(y_pred, dict):
            trained_on = next(iter(y_pred))
            self.batch_check.update_state(x["clean"], y, y_pred[trained_on])
            if "robust" in y_pred:
                self.robust_accuracy.update_state(y, y_pred["robust"], sample_weight)
            if "adversarial" in y_pred:
                targets = losses.one_hot(y, self.num_classes)
                hits = keras.metrics.categorical_accuracy(
                    targets, y_pred["adversarial"]
                )
                self.adversarial_accuracy.update_state(hits, sample_weight)
            if "clean" in y_pred:
                self.clean_accuracy.update_state(y, y_pred["clean"], sample_weight)
            y_pred = y_pred["clean" if "robust" in y_pred else trained_on]
        if self._compile_metrics is not None:
            self._compile_metrics.update_state(y, y_pred, sample_weight)
        return self.get_metrics_result()

    def get_metrics_result(self):
        """Results of the metrics that the current kind of step updates."""
        if self._evaluating:
            logs = {**self.clean_accuracy.result(), **self.robust_accuracy.result()}
        else:
            logs = {}
            if "adversarial" in self._wanted:
                logs["adversarial_accuracy"] = self.adversarial_accuracy.result()
            if "clean" in self._wanted:
                logs["clean_accuracy"] = self.clean_accuracy.result()["clean_accuracy"]
        logs["loss"] = self._loss_tracker.result()
        if self._compile_metrics is not None:
            logs.update(self._compile_metrics.result())
        return logs

    # How it is used

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """Configures training, as `keras.Model.compile` does.

        Args:
            optimizer: As in Keras. The paper's is `keras_robustlt.optimizers.SGD`.
            loss: Replaces the cross-entropy inside the method's loss: a Keras loss
                of logits, by name or as an object, or a function of
                `(targets, logits)`. Targets are one-hot, also for the sparse losses'
                names. Defaults to `None`, the cross-entropy.
            **kwargs: `metrics`, `jit_compile`, ... as in Keras.
        """
        self._criterion = losses.criterion(loss)
        self._loss = loss
        optimizer = keras.optimizers.get(optimizer)
        float16 = any(
            layer.compute_dtype == "float16" for layer in self.network._flatten_layers()
        )
        if float16 and kwargs.get("auto_scale_loss", True):
            # Keras asks the dtype policy of the model, which is float32 here.
            if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        super().compile(optimizer=optimizer, **kwargs)

    def get_compile_config(self):
        config = super().get_compile_config()
        if config and self._loss is not None:
            config["loss"] = keras.saving.serialize_keras_object(self._loss)
        return config

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:  # so that there are variables to load the state into
            self.optimizer.build(self.trainable_variables)

    @functools.wraps(keras.Model.fit)
    def fit(self, *args, **kwargs):
        call = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs)
        self._check_data(call.arguments)
        _add_callback(call, ScheduleClock(call.arguments.get("x")))
        if hasattr(call.arguments.get("x"), "epoch"):
            # A pipeline of this package shuffles itself; Keras warns that it cannot.
            call.arguments.setdefault("shuffle", False)
        return super().fit(*call.args[1:], **call.kwargs)

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(self, *args, **kwargs):
        if np.isnan(ops.convert_to_numpy(self.budget.iteration_weight(self.schedule))):
            raise ValueError(
                "`train_on_batch` does not know where in the schedule it is. Tell it: "
                "`model.schedule.start(epochs, steps_per_epoch)` once, and at the "
                "beginning of each epoch `model.schedule.begin_epoch(epoch)`, from 0."
            )
        return super().train_on_batch(*args, **kwargs)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, *args, **kwargs):
        call = inspect.signature(keras.Model.evaluate).bind(self, *args, **kwargs)
        in_fit = isinstance(
            call.arguments.get("callbacks"), keras.callbacks.CallbackList
        )
        if not in_fit:
            self._check_data(call.arguments)
            # Robust accuracy does not depend on what was evaluated before.
            self.evaluation_seed.state.assign(
                keras.random.SeedGenerator(self.evaluation_seed._initial_seed).state
            )
        self._evaluating = True
        self._validating = in_fit
        if self._tested != self.inference_network.name:
            self.test_function = None  # it is another network's
            self._tested = self.inference_network.name
        try:
            result = super().evaluate(*call.args[1:], **call.kwargs)
            self.batch_check.raise_if_wrong()
            return result
        finally:
            self._evaluating = self._validating = False

    def _check_data(self, arguments):
        """Looks at arrays before a step is done; `batch_check` sees the rest."""
        batch_size = arguments.get("batch_size") or 32
        found = [("x", "y", arguments.get("x"), arguments.get("y"), batch_size)]
        validation = arguments.get("validation_data")
        if isinstance(validation, (tuple, list)) and len(validation) > 1:
            names = "validation_data[0]", "validation_data[1]"
            size = arguments.get("validation_batch_size") or batch_size
            found.append((*names, *validation[:2], size))
        for x_name, y_name, x, y, size in found:
            if isinstance(x, np.ndarray):
                checks.images(x, x_name)
                checks.equal_parts(len(x), size)
            if isinstance(y, (np.ndarray, list)):
                checks.labels(y, self.num_classes, y_name)

    def _check_outputs(self, shape):
        if len(shape) != 2 or shape[-1] != self.num_classes:
            raise ValueError(
                "`network` must give logits of shape (batch, num_classes), and "
                f"`class_counts` has {self.num_classes} classes. Received a network "
                f"with outputs of shape {tuple(shape)}"
            )

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras leaves the state of random generators out.
        for name in SEEDS:
            store[name] = ops.convert_to_numpy(getattr(self, name).state)

    def load_own_variables(self, store):
        values = {key: store[key] for key in store.keys() if key not in SEEDS}
        super().load_own_variables(values)
        for name in SEEDS:
            getattr(self, name).state.assign(store[name])

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "network": serialize(self.network),
            "class_counts": self.class_counts.tolist(),
            "epsilon": self.epsilon,
            "method": serialize(self.method),
            "attack": serialize(self.attack),
            "attack_steps": self.attack_steps,
            "evaluation_attack": serialize(self.evaluation_attack),
            "budget": serialize(self.budget),
            "augmentation": self.augmentation,
            "batchnorm_statistics": self.batchnorm_statistics,
            "total_epochs": self.total_epochs,
            "averaging": self.averaging and serialize(self.averaging),
            "tail_fraction": self.tail_fraction,
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        keys = (
            "network",
            "method",
            "attack",
            "evaluation_attack",
            "budget",
            "averaging",
        )
        for key in keys:
            config[key] = keras.saving.deserialize_keras_object(
                config[key], custom_objects=custom_objects
            )
        return cls(**config)


def _runs_inside_a_step(argument, attack):
    if not getattr(attack, "runs_compiled", True):
        raise ValueError(
            f"`{argument}` runs inside a compiled step, which {type(attack).__name__} "
            "cannot, as it stops with each image by itself. Use PGD or FGSM, and "
            "`keras_robustlt.evaluate(model, x, y, attacks=...)` for attacks such as "
            f"this one. Received: {argument}={attack!r}"
        )


def _budget(rule, *robustlt):
    return budgets.RobustLT(*robustlt) if rule is None else budgets.get(rule)


def _feature_networks(*every):
    """A function from each of the networks to one that also gives the features."""
    with_features = {id(each): networks.with_features(each) for each in every}
    # Not a dictionary in the model: Keras would count the weights twice.
    return lambda network: with_features[id(network)]


def _attacked(logits, images):
    """`logits` as if the adversarial images were those called `images`."""
    return {
        **logits,
        **{
            name.replace(images, "adversarial"): value
            for name, value in logits.items()
            if name.startswith(images)
        },
    }


def _add_callback(call, callback):
    """Puts `callback` first: the schedule is set before others look at it."""
    callbacks = call.arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.callbacks.insert(0, callback)
        callback.set_model(callbacks.model)
        callback.set_params(callbacks.params)
        return
    if callbacks is None:
        callbacks = []
    elif isinstance(callbacks, keras.callbacks.Callback):
        callbacks = [callbacks]
    call.arguments["callbacks"] = [callback, *callbacks]
