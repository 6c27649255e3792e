"""RobustLTModel: adversarial training on long-tailed data, as a Keras model.

A step of training reads from top to bottom in `training_batch`: what the budget of
each class is now, which images that gives, and what the network is asked about.
Keras's own `train_step` does the rest, with `call`, `compute_loss` and
`compute_metrics` as it always does, so that optimisers, metrics, callbacks, mixed
precision and distribution are Keras's own.
"""

import contextlib
import functools
import inspect
import warnings

import keras
import numpy as np
from keras import ops

from keras_robustlt import (
    attacks,
    backend,
    checks,
    class_frequencies,
    configurable,
    fit_arguments,
    losses,
    methods,
    metrics,
    model_arguments,
    networks,
)
from keras_robustlt import averaging as weight_averaging
from keras_robustlt.attacks import norms
from keras_robustlt.attacks.base import (
    budget_of_start,
    images_from,
    is_called_as,
    moved,
    outside,
    share_used,
    trait,
)
from keras_robustlt.backend import replicas
from keras_robustlt.batch_check import BatchCheck
from keras_robustlt.callbacks.checkpoint import prepared
from keras_robustlt.callbacks.training_watch import (
    IDLE,
    TrainingWatch,
    check_rules,
    parts_of,
)
from keras_robustlt.data.augmentation import on_device
from keras_robustlt.model_arguments import augmenter, derived_seed
from keras_robustlt.schedule import Schedule, ScheduleClock

__all__ = ["RobustLTModel"]

BATCHNORM_STATISTICS = ("adversarial", "mixed")
ATTACK_STEPS = ("full", "adaptive")
SEEDS = ("start_seed", "evaluation_seed", "augmentation_seed")
# The share of the images that an attack may leave where it starts, and right.
STUCK = 0.01
# What other parts of a model are made with, and what its steps read when compiled.
CONSUMED = frozenset(
    {
        *("network", "class_counts", "num_classes", "epsilon", "method", "attack"),
        *("budget", "augmentation", "batchnorm_statistics", "averaging", "seed"),
        *("norm", "tail_fraction"),
    }
)
COMPILED = frozenset({"attack_steps", "evaluation_attack"})
# Arguments that only the budget keeps.
OF_BUDGET = frozenset({"alpha", "beta", "granularity", "weighting"})
# The images that a step hands to `call`, in the order of the forward passes.
INPUT_KEYS = ("adversarial", "robust", "clean")
# Beside their logits: what the network added to the loss, the same for each image.
EXTRA_LOSS = "extra_loss"


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

    `fit(class_weight=...)` weighs the losses of the images by class. Beside Keras's
    dictionary it takes `"balanced"`, weights in inverse proportion to `class_counts`,
    and `"effective"`, to the effective numbers (`losses.effective_number_weights`),
    each with a mean of 1 over the images. Such weights count in the logged accuracies
    of training too.

    The settings of its parts stay as they are when the model is made. A budget, a
    method or an average that keeps a state of training, or is for other classes,
    belongs to one model: each gets its own.

    Args:
        network: A `keras.Model` that maps images in `[0, 1]`, of shape
            `(batch, ...)`, to logits of shape `(batch, num_classes)`. Normalisation
            of the images belongs inside.
        class_counts: Integers of shape `(num_classes,)`: training images of each
            class, in the order of the labels, as `np.bincount(labels)` gives them. Or
            a dictionary or pandas Series with the labels as keys, in any order.
        epsilon: Float. The base budget, in pixel units. Defaults to `8 / 255`.
        alpha: Float in `[0, 1]`. Strength of class-wise perturbation balancing; `0`
            is without. Defaults to `0.3`.
        beta: Float, not negative. The share of training over which adversarial
            iteration weighting raises the budget; `0` is without. Defaults to `0.8`.
        method: The base method: `"at"`, `"at_bsl"`, `"awp"`, `"cgr"`,
            `"class_balanced"`, `"focal"`, `"ldam"`, `"logit_adjusted"`, `"mart"`,
            `"nuat"`, `"reat"`, `"robal"`, `"standard"`, `"taet"`, `"trades"`, one with
            `"+awp"` behind it, or a `keras_robustlt.methods.Method`. Defaults to
            `"at"`.
        attack: The training attack: `"pgd"`, which is `PGD(epsilon, steps=10)` with
            steps of `epsilon / 4` from a random start, the single-step attacks
            `"fgsm-rs"`, `"n-fgsm"`, `"n-fgsm-mean"` and `"fgsm-bernoulli"`, which make
            training several times as fast, `"udr"`, or an object such as
            `PGD(epsilon, steps=5)`.
            Defaults to the method's: `"pgd"`, and of `"nuat"` `"fgsm-bernoulli"`.
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
            `granularity` and `weighting`, which then may not be given: `"auto"`, which
            finds them along training, `"uniform"`, `"cfa"`, `"dafa"` or a
            `keras_robustlt.budget.Budget`. Defaults to `None`.
        augmentation: Random changes of the training images inside the step, on the
            device, for data that come as plain arrays: a name from
            `keras_robustlt.data.AUGMENTATIONS`, a layer of Keras, or a function as
            `data.pipeline` takes it. Pipelines of `data.long_tail` augment themselves,
            and layers of keras-cv run in them alone. Defaults to `"none"`.
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

    Attributes:
        network: The classifier that is trained.
        averaged_network: That with the average of the weights; `None` without one.
        inference_network: Which of the two `evaluate` and `predict` use.
        class_counts: Int64 array of shape `(num_classes,)`.
        norm: `"linf"` or `"l2"`, of the training attack: in which `epsilon` is meant.
        method: The base method, an object; its own attributes may be read.
        attack_in_use: The attack that training steps make: `attack`, unless
            `use_attack` said another.
        budget: The rule for the budgets, an object: `budget.class_epsilon(schedule)`
            gives those of the classes where training stands.
        schedule: Where training stands: the integer variables `epoch`, from 0, `step`
            of this epoch, from 1, `epochs` and `steps_per_epoch`, 0 if not known yet.

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
        alpha=None,
        beta=None,
        method="at",
        attack=None,
        attack_steps="full",
        evaluation_attack=None,
        granularity=None,
        weighting=None,
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
        checks.classifier_alone("network", network)
        if not isinstance(network, keras.Model):
            raise ValueError(
                "`network` must be a keras.Model that gives logits. "
                f"Received: network={network!r} (of type {type(network).__name__})"
            )
        checks.network(network)
        checks.one_input_and_output(network)
        self.network = network
        self.class_counts = checks.class_counts(class_counts)
        self.class_counts.setflags(write=False)  # what is made of them stays as it is
        self.num_classes = len(self.class_counts)
        self.epsilon = checks.epsilon(epsilon, trait(attack, "norm"))
        doubt = norms.doubt(self.epsilon, trait(attack, "norm"))
        if doubt:
            warnings.warn(doubt, stacklevel=2)
        self.method = methods.get(method)
        model_arguments.check_inputs(self.method)
        attack_or_default = self.method.default_attack if attack is None else attack
        self.attack = attacks.get_training(attack_or_default, self.epsilon)
        self.norm = trait(self.attack, "norm")
        self._check_attack("attack", self.attack)
        self.attack_steps = checks.one_of("attack_steps", attack_steps, ATTACK_STEPS)
        if evaluation_attack is None:
            evaluation_attack = attacks.PGD(
                self.epsilon, 20, self.epsilon / 8, norm=self.norm
            )
        self.evaluation_attack = evaluation_attack
        self._check_attack("evaluation_attack", evaluation_attack)
        for each in (self.attack, evaluation_attack):
            if isinstance(each, attacks.Attack):
                each.check_classes(self.num_classes)
        if isinstance(evaluation_attack, attacks.PGD):
            if evaluation_attack.leads_nowhere():
                warnings.warn(
                    "All steps of `evaluation_attack` together lead less than a tenth "
                    "of its epsilon far: what it leaves is no robustness. Received: "
                    f"evaluation_attack={evaluation_attack!r}",
                    stacklevel=2,
                )
        self.budget = model_arguments.budget(
            budget,
            self.method,
            attack,
            alpha=alpha,
            beta=beta,
            granularity=granularity,
            weighting=weighting,
        )
        model_arguments.check_parts(
            self.attack, self.attack_steps, self.budget, self.method
        )
        self.averaging = weight_averaging.get(averaging)
        self.augmentation = augmentation
        self._augmenter = augmenter(augmentation, network, self.num_classes)
        self.batchnorm_statistics = checks.one_of(
            "batchnorm_statistics", batchnorm_statistics, BATCHNORM_STATISTICS
        )
        self.total_epochs = total_epochs
        self.tail_fraction = checks.share("tail_fraction", tail_fraction)
        self.seed = seed = checks.seed(seed)

        # Of which kind the current step is; the averaged network depends on it.
        self._evaluating = self._validating = False
        self._in_use = False
        self.trainings = 0  # in this process, that began with the first epoch
        self.attack_in_use = self.attack
        self.schedule = Schedule(self)
        # One for each purpose, so that validation does not change what training draws,
        # and no numbers serve twice.
        self.start_seed = keras.random.SeedGenerator(seed)
        self.evaluation_seed = keras.random.SeedGenerator(derived_seed(seed, 1))
        self.augmentation_seed = keras.random.SeedGenerator(derived_seed(seed, 2))
        with configurable.built_for_one_model(model_arguments.buildable(self)):
            self.method.build(self)
            self.budget.build(self)
            if isinstance(self.attack, attacks.Attack):
                self.attack.build(self)
            if self.averaging is not None:
                self.averaging.build(self)
        self.averaged_network = None
        if self.averaging is not None:
            self.averaged_network = weight_averaging.copy_of(network)
        if self.method.uses_features:
            self._with_features = _feature_networks(network, self.inference_network)
        wanted = set(self.method.inputs)
        if self.budget.uses_clean_loss or batchnorm_statistics == "mixed":
            wanted.add("clean")
        self._wanted = tuple(image for image in INPUT_KEYS if image in wanted)

        def accuracy(prefix):
            return metrics.ClasswiseAccuracy(
                self.class_counts,
                self.tail_fraction,
                prefix=f"{prefix}_",
                name=f"{prefix}_accuracy",
            )

        self.adversarial_accuracy = keras.metrics.Mean("adversarial_accuracy")
        self.clean_accuracy = accuracy("clean")
        self.robust_accuracy = accuracy("robust")
        self.batch_check = BatchCheck(self.num_classes)
        self.attack_moves = keras.metrics.Mean("attack_moves")
        self._loss, self._criterion = None, losses.cross_entropy
        self._check_soft_labels()
        self._tested = self.inference_network.name
        self.built = network.built
        if network.built and hasattr(network, "output_shape"):
            checks.outputs(network.output_shape, self.num_classes)
        for part in (*parts_of(self), self.attack, self.evaluation_attack):
            configurable.freeze(part)

    def __setattr__(self, name, value):
        given = vars(self)
        is_late = name in COMPILED and given.get("_in_use")
        # A subclass may have attributes of these names.
        is_ours = configurable.is_of_this_package(type(self))
        of_budget = is_ours and name in OF_BUDGET and "budget" in given
        if (name in CONSUMED or is_late) and name in given or of_budget:
            raise AttributeError(
                f"`{name}` is what the model was made with, and its compiled steps "
                "would not know of another one. Make a new model, RobustLTModel("
                f"model.network, ..., {name}=...); to train on with another attack "
                "there is `model.use_attack`, and to evaluate with others "
                f"`keras_robustlt.evaluate(model, ...)`. Received: {name}={value!r}"
            )
        if name == "total_epochs" and value is not None:
            value = checks.positive_integer(name, value)
        super().__setattr__(name, value)

    def _check_attack(self, argument, attack):
        model_arguments.check_attack(argument, attack, self.epsilon, self.attack)
        if argument == "attack":
            self.method.check_attack(attack)

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
            The batch with, in place of `x`, a dictionary of the images by name, and of
            `"moved"`: 1 for each image that the attack moved, 0 for one that it left
            where it started, and -1 for one without a budget.
        """
        x, y, sample_weight = self._unpacked(data)
        mixes = getattr(self._augmenter, "mixes_labels", False)
        if mixes and sample_weight is not None:
            raise ValueError(
                "`class_weight` and `sample_weight` are of images as they come, and "
                f"augmentation={self._augmenter} mixes them inside the step. Mix in "
                "the pipeline, data.pipeline(..., augmentation=...), or leave the "
                "weights out."
            )
        x, y = self._augmented(x, y)
        images = {"clean": x}
        if "adversarial" in self._wanted:
            targets = losses.one_hot(y, self.num_classes)
            class_epsilon = self.class_epsilon()
            epsilon = ops.matmul(targets, class_epsilon[:, None])[:, 0]
            attack = self.attack_in_use
            within = budget_of_start(attack, self.epsilon, class_epsilon, epsilon)
            start = attack.starting_point(x, within, self.start_seed)
            start = images_from(attack, "starting_point", start, x)
            # Without a budget the attack gives the images themselves.
            x_adv = backend.run_if(
                ops.max(class_epsilon) > 0,
                lambda: self._perturbed(x, targets, start, epsilon),
                x,
            )
            images["adversarial"] = x_adv
            images["moved"] = moved(x, x_adv, start, epsilon, attack)
            if not configurable.is_of_this_package(type(attack)):
                of_image = x, x_adv, epsilon, attack
                images["outside"] = outside(*of_image)
                images["share_used"] = share_used(*of_image)
            if isinstance(attack, attacks.Attack):
                # Last: what it learns here is of the next step.
                attack.update(x, x_adv, epsilon)
        return images, y, sample_weight

    def _unpacked(self, data):
        """Images, labels and weights of a batch, if they are such."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = self._images(x)
        if x.shape[0] == 0:  # where it is known: JAX reduces nothing of no images
            raise ValueError(
                "`x` holds a batch without images: leave it out. Received: shape "
                f"{tuple(x.shape)}"
            )
        if not self.network.built:  # what it gives is not known before
            checks.outputs(self.network(x, training=False).shape, self.num_classes)
        checks.label_type(y, self.num_classes)
        message = "`{}` must have one entry for each image of a batch of `x`"
        y = backend.as_many(y, x, message.format("y"))
        if sample_weight is not None:
            checks.weight_type(sample_weight)
            name = "sample_weight"
            sample_weight = backend.as_many(sample_weight, x, message.format(name))
        return x, y, sample_weight

    def _images(self, x):
        """The images of a batch as float32, if they are such that the network takes."""
        checks.image_dtype(x)
        checks.known_rank(x)
        return ops.cast(backend.images_for(self.network, x), "float32")

    def class_epsilon(self):
        """The budget of each class in the current step, 0 where there is no attack.

        Returns:
            A float32 tensor of shape `(num_classes,)`, in pixel units. Before training
            it is not a number where the budget grows along training, whose length is
            not known yet: `model.schedule.start(epochs, steps_per_epoch)` tells it.
        """
        values = self.budget.class_epsilon(self.schedule)
        class_epsilon = self._of_each_class("class_epsilon", values)
        if "adversarial" not in self._wanted:
            return ops.zeros_like(class_epsilon)
        attacking = self.method.attacks(self.schedule)
        if attacking is None:
            return class_epsilon
        return ops.where(attacking, class_epsilon, 0.0)

    def _of_each_class(self, name, values):
        """What a budget gives for the classes, as a tensor of one number for each."""
        values = ops.cast(ops.convert_to_tensor(values), "float32")
        if tuple(values.shape) != (self.num_classes,):
            raise ValueError(
                f"`{name}` of {self.budget} must give {self.num_classes} numbers, one "
                f"for each class. Received: a tensor of shape {tuple(values.shape)}"
            )
        return values

    def _augmented(self, x, y):
        if self._augmenter is not None:
            targets = losses.one_hot(y, self.num_classes)
            seed = replicas.own_seed(self.augmentation_seed.next())
            x, targets = self._augmenter(x, targets, seed)
            x = ops.clip(x, 0.0, 1.0)
            return x, targets if self._augmenter.mixes_labels else y
        if self.augmentation == "none":
            return x, y
        augment = on_device(self.augmentation, x.shape[1:])
        draw = functools.partial(
            keras.random.uniform, dtype="float32", seed=self.augmentation_seed
        )
        draws = replicas.drawn(draw, (ops.shape(x)[0], augment.num_draws))
        return augment(x, draws), y

    def _perturbed(self, x, targets, start, epsilon):
        """What the training attack makes of the images, from its start."""
        loss = self.method.attack_loss
        if self.method.attack_compares:
            clean = backend.frozen(self.network)(x, training=True)
            clean = ops.cast(clean, "float32")
            loss = functools.partial(loss, clean_logits=clean)
        attack = self.attack_in_use
        x_adv = attack.perturb(
            self.network,
            x,
            targets,
            start,
            epsilon=epsilon,
            training=True,
            loss=loss,
            **self._fewer_steps(),
        )
        return images_from(attack, "perturb", x_adv, x)

    def _fewer_steps(self):
        """How many steps the training attack makes now, if not its own number."""
        if self.attack_steps == "full":
            return {}
        share = self.budget.iteration_weight(self.schedule)
        steps = ops.cast(ops.ceil(share * self.attack_in_use.steps), "int32")
        return {"steps": ops.maximum(steps, min(2, self.attack_in_use.steps))}

    def evaluation_batch(self, data):
        """The batch of `evaluate`, with its adversarial images."""
        x, y, sample_weight = self._unpacked(data)
        hard = losses.largest_part(y) if self._are_rows(y) else y
        attack, network = self.evaluation_attack, self.inference_network
        images = {"clean": x}
        # One of another kind may take no start to compare with.
        if is_called_as(attack, attacks.PGD) and attack.restarts == 1:
            start = attack.starting_point(x, seed=self.evaluation_seed)
            images["robust"] = attack(network, x, hard, start=start)
            epsilon = ops.full((ops.shape(x)[0],), self.epsilon, "float32")
            images["moved"] = moved(x, images["robust"], start, epsilon, attack)
        else:
            x_adv = attack(network, x, hard, seed=self.evaluation_seed)
            images["robust"] = images_from(attack, "__call__", x_adv, x)
        if not configurable.is_of_this_package(type(attack)):
            epsilon = ops.full((ops.shape(x)[0],), self.epsilon, "float32")
            images["outside"] = outside(x, images["robust"], epsilon, attack)
            images["share_used"] = share_used(x, images["robust"], epsilon, attack)
        return images, y, sample_weight

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
        if not (isinstance(inputs, dict) and set(INPUT_KEYS) & set(inputs)):
            return network(self._images(inputs), training=training)
        if self.method.uses_features:
            network = self._with_features(network)
        wanted = self._wanted if training else inputs
        logits, extra = {}, None
        for name in [image for image in INPUT_KEYS if image in wanted]:
            frozen = name == "clean" and training and not self._clean_moves_statistics
            forward = backend.frozen(network) if frozen else network
            outputs = forward(inputs[name], training=training)
            if self.method.uses_features:
                logits[name], logits[f"{name}_features"] = outputs
            else:
                logits[name] = outputs
            if extra is None:  # of the images that the loss is about: once
                extra = _losses_of_call(network)
        if extra:
            of_each = ops.zeros_like(logits[name][:, 0], dtype="float32")
            logits[EXTRA_LOSS] = of_each + sum(map(ops.sum, extra))
        return {name: ops.cast(value, "float32") for name, value in logits.items()}

    @property
    def inference_network(self):
        """What evaluates and predicts: the averaged network where there is one."""
        averaging = self.averaging
        if averaging is None or (averaging.validates == "network" and self._validating):
            return self.network
        return self.averaged_network

    def use_attack(self, attack):
        """Trains with `attack` from the next step on.

        `model.attack` stays what it is, and what is saved: see
        `callbacks.CollapseGuard`.

        Args:
            attack: An attack object, as the constructor takes it.

        Raises:
            ValueError: If it is none, has another budget than the model, or a state
                of its own, which only the attack that a model is made with can have.
        """
        self._check_attack("attack", attack)
        model_arguments.check_no_state("attack", attack, self.attack)
        configurable.freeze(attack)
        if attack is not self.attack_in_use:
            self.attack_in_use = attack
            self.make_train_function(force=True)

    def update_average(self, keep):
        """Moves the averaged network towards the network.

        Args:
            keep: Float or scalar tensor in `[0, 1]`, the share that it keeps.
        """
        if self.averaged_network is None:
            raise ValueError(
                "`update_average` needs a model with an average of the weights, "
                "RobustLTModel(..., averaging=...)."
            )
        if not ops.is_tensor(keep):
            keep = checks.in_range("keep", keep, 0, 1)
        elif checks.known(keep) is not None:  # called from outside of a step
            checks.in_range("keep", checks.known(keep), 0, 1)
        weight_averaging.move(self.averaged_network, self.network, keep)

    @property
    def _clean_moves_statistics(self):
        return self.batchnorm_statistics == "mixed" or self._wanted == ("clean",)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The method's loss on the logits, and the network's own regularisation.

        Args:
            x: Dictionary of images, as `training_batch` gives it. Not used.
            y: Labels, integers `(batch,)` or rows `(batch, num_classes)`.
            y_pred: Dictionary from the names of the images to their logits, as `call`
                gives it, with what the network added to the loss where it did.
            sample_weight: Float tensor `(batch,)`, or `None`. Defaults to `None`.
            training: Boolean: whether the budget and the method take in what they are
                shown, and weigh the loss. Defaults to `True`.

        Returns:
            A float32 scalar tensor.
        """
        checks.outputs(next(iter(y_pred.values())).shape, self.num_classes)
        targets = losses.one_hot(y, self.num_classes)
        targets, logits, sample_weight = replicas.gathered(
            (targets, y_pred, sample_weight)
        )
        logits = _LogitsOfInputs(logits)
        extra = logits.pop(EXTRA_LOSS, None)
        logits = _attacked(logits, "robust") if "robust" in logits else logits
        hard = losses.largest_part(targets) if self._are_rows(y) else targets
        if not training:
            targets = hard
        loss = self.method.loss(targets, logits, self._criterion)
        loss = self._one_of_each(loss, targets)
        if training:
            if "adversarial" in logits:
                attacked = self._only_attacked(_only_weighed(hard, sample_weight))
                self.budget.update(attacked, logits["adversarial"])
            self.method.update(_only_weighed(targets, sample_weight), logits)
            loss = self._weighted(loss, targets, logits)
        if len(loss.shape) == 0 and sample_weight is not None:
            raise ValueError(
                f"`sample_weight` has no meaning in {self.method}, whose loss is not a "
                "mean over examples. Received sample weights (or `class_weight`)."
            )
        if sample_weight is not None:
            loss = loss * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        extras = [
            variable.regularizer(variable.value) for variable in _regularized(self)
        ]
        if extra is not None:
            extras.append(ops.mean(extra))
        # Of no images, such as a generator's last batch may have, the mean is NaN.
        mean = ops.where(ops.shape(targets)[0] > 0, ops.mean(loss), 0.0)
        total = sum((ops.cast(each, "float32") for each in extras), mean)
        # The gradients of the replicas will be added up.
        return total / replicas.num_replicas()

    def _one_of_each(self, loss, targets):
        """`loss`, if it is a scalar or one value for each example."""
        message = (
            f"`loss` of {self.method}, or of `compile`, must give one value for each "
            "example, of shape (batch,), or a scalar. Received: "
            f"{getattr(loss, 'shape', type(loss).__name__)}"
        )
        rank = len(getattr(loss, "shape", (0, 0)))
        if rank > 1:
            raise ValueError(message)
        kinds = [type(each) for each in methods.base.layers_of(self.method)]
        ours = self._loss is None and all(map(configurable.is_of_this_package, kinds))
        if rank == 0 or ours:
            return loss
        return backend.as_many(loss, targets, message)

    def _only_attacked(self, targets):
        """`targets`, zeros in a step without an attack."""
        attacking = self.method.attacks(self.schedule)
        if attacking is None:
            return targets
        return targets * ops.cast(attacking, "float32")

    def _weighted(self, loss, targets, logits):
        """The loss with the budget's weights, of the clean loss and of the classes."""
        weight = self.budget.loss_weight(self.schedule)
        if weight is not None:
            if "clean" not in logits:
                raise ValueError(
                    f"{self.budget} has a `loss_weight`, which leaves the rest to the "
                    "loss of the clean images: its `uses_clean_loss` must be True. "
                    f"Received: uses_clean_loss={self.budget.uses_clean_loss}"
                )
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
            class_weight = self._of_each_class("class_weight", class_weight)
            loss = ops.sum(targets * class_weight, axis=-1) * loss
        return loss

    def _are_rows(self, y):
        """Whether labels come as rows, which may be soft, and not as integers."""
        return len(y.shape) == 2 and y.shape[-1] == self.num_classes

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics of this kind of step, and gives their results."""
        if isinstance(y_pred, dict):
            trained_on = next(iter(y_pred))
            self.batch_check.update_state(
                x["clean"],
                y,
                y_pred[trained_on],
                sample_weight,
                trains="robust" not in y_pred,
                outside=x.get("outside"),
                share_used=x.get("share_used"),
            )
            if "moved" in x:
                moved = x["moved"]
                if "robust" in y_pred:  # of those that do not count, all is well
                    moved = ops.where(self._is_right(y, y_pred["robust"]), moved, 1.0)
                self.attack_moves.update_state(moved, x["moved"] >= 0)
            if "robust" in y_pred:
                self.robust_accuracy.update_state(y, y_pred["robust"], sample_weight)
            if "adversarial" in y_pred:
                hits = self._is_right(y, y_pred["adversarial"])
                self.adversarial_accuracy.update_state(hits, sample_weight)
            if "clean" in y_pred:
                self.clean_accuracy.update_state(y, y_pred["clean"], sample_weight)
            y_pred = y_pred["clean" if "robust" in y_pred else trained_on]
        form = "one-hot" if self._are_rows(y) else "integer"
        for name, wanted in filter(None, self._labels_of_metrics):
            if wanted != form:
                raise ValueError(
                    f"`metrics` must take labels as they are, which are {form} here, "
                    f'and {name} takes {wanted} ones. By its name "accuracy" takes '
                    "either."
                )
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def _is_right(self, y, logits):
        targets = losses.one_hot(y, self.num_classes)
        return metrics.are_right(ops.argmax(targets, axis=-1), logits)

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
                names. Defaults to `None`, the cross-entropy. To smooth labels:
                `keras.losses.CategoricalCrossentropy(from_logits=True,
                label_smoothing=0.1)`, which MART and the focal loss refuse. Budgets and
                weights follow the labels as they are.
            **kwargs: `metrics`, `jit_compile`, ... as in Keras. Metrics see what the
                network is trained on: of `"accuracy"`, the logs of `fit` have
                `accuracy` on perturbed images, and `val_accuracy` on clean ones.
        """
        model_arguments.check_compile(kwargs)
        self._criterion = losses.criterion(loss)
        self.method.check_label_smoothing(losses.label_smoothing_of(loss))
        self._labels_of_metrics = []
        for argument in ("metrics", "weighted_metrics"):
            for metric in keras.tree.flatten(kwargs.get(argument)):
                metrics.refuse_probabilities(argument, metric)
                metrics.refuse_names(argument, metric, {"loss", *self._accuracies()})
                self._labels_of_metrics.append(metrics.labels_of(metric))
        self._loss = loss
        self._check_soft_labels()
        optimizer = model_arguments.optimizer_for(
            self.network, self.method, optimizer, kwargs.get("auto_scale_loss", True)
        )
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
        labels = fit_arguments.check(call.arguments, self.network, self.class_counts)
        fit_arguments.check_some_weight(call.arguments)
        if self.averaging is not None:
            self.averaging.check_fit(call.arguments)
        self._check_training(call.arguments)
        clock = ScheduleClock(call.arguments.get("x"))
        if labels is not None:
            split = call.arguments.get("validation_split")
            if call.arguments.get("validation_data") is not None:
                split = None  # Keras does not look at it then
            fit_arguments.check_classes(labels, self.class_counts, split)
        first = [clock, TrainingWatch(labels_compared=labels is not None)]
        call.arguments["callbacks"] = prepared(self, call.arguments, first)
        fit_arguments.maximize(call.arguments["callbacks"], self._accuracies())
        if clock.dataset_epochs:
            # A pipeline of this package shuffles itself; Keras warns that it cannot.
            call.arguments.setdefault("shuffle", False)
        return super().fit(*call.args[1:], **call.kwargs)

    @functools.wraps(keras.Model.train_on_batch)
    def train_on_batch(self, *args, **kwargs):
        weight = ops.convert_to_numpy(self.budget.iteration_weight(self.schedule))
        waits = any(part.begins(0) > 0 for part in parts_of(self))
        if np.isnan(weight) or waits and not self.schedule.length:
            raise ValueError(
                "`train_on_batch` does not know where in the schedule it is. Tell it: "
                "`model.schedule.start(epochs, steps_per_epoch)` once, and at the "
                "beginning of each epoch `model.schedule.begin_epoch(epoch)`, from 0."
            )
        self._check_epoch_is_not_over()
        if self.averaging is not None and self.averaging.looks_at_epochs:
            raise ValueError(
                "`train_on_batch` knows of no epochs, at whose ends "
                f"averaging={self.averaging!r} looks: the averaged network, which "
                "evaluates and predicts, would never change. Use `fit`, or an average "
                "of each step, averaging=0.999."
            )
        call = inspect.signature(keras.Model.train_on_batch).bind(self, *args, **kwargs)
        if not self._in_use:
            check_rules(self)
        self._check_batch(call.arguments)
        self._check_training(call.arguments)
        result = super().train_on_batch(*call.args[1:], **call.kwargs)
        self.batch_check.raise_if_wrong()
        return result

    def _check_epoch_is_not_over(self):
        """Raises if an epoch goes on for ever, and with it the budget that grows."""
        schedule = self.schedule
        steps, step, epoch = (
            int(ops.convert_to_numpy(counter))
            for counter in (schedule.steps_per_epoch, schedule.step, schedule.epoch)
        )
        if 0 < schedule.length <= epoch:
            raise ValueError(
                f"`model.schedule` is at epoch {epoch} of {schedule.length}, which are "
                "counted from 0: `begin_epoch` was told another number, or "
                "`model.schedule.start(epochs, steps_per_epoch)` of a shorter training."
            )
        grows = self.budget.grows and epoch + 1 < schedule.length
        if grows and 0 < steps <= step:
            raise ValueError(
                f"`train_on_batch` has made the {steps} steps of epoch {epoch} (from "
                "0), and the budget grows with the epochs: say that the next one "
                f"begins, `model.schedule.begin_epoch({epoch + 1})`."
            )

    @functools.wraps(keras.Model.test_on_batch)
    def test_on_batch(self, *args, **kwargs):
        call = inspect.signature(keras.Model.test_on_batch).bind(self, *args, **kwargs)
        self._check_batch(call.arguments)
        with self._evaluation():
            return super().test_on_batch(*args, **kwargs)

    def _check_batch(self, arguments):
        """Looks at the arrays of one batch."""
        if isinstance(arguments["x"], np.ndarray):
            arguments = {**arguments, "batch_size": len(arguments["x"]) or None}
        fit_arguments.check(arguments, self.network, self.class_counts)

    def _use(self):
        """Keeps settings as they are, from when steps are compiled that read them."""
        self._in_use = True

    def _check_training(self, arguments):
        """Looks at what is common to `fit` and `train_on_batch`."""
        self._use()
        self._check_soft_labels(arguments)
        fit_arguments.check_weighing(arguments, self.method)
        # Puts the weight of each class where they are given in another way.
        if arguments.get("class_weight") is not None:
            arguments["class_weight"] = fit_arguments.class_weight(
                arguments["class_weight"], self.class_counts
            )

    def _check_soft_labels(self, arguments=None):
        """Raises if training meets soft labels that are not for it, as far as known.

        Those of a data set that does not announce them, the first step meets.
        """
        why = fit_arguments.why_no_soft_labels(
            self.method, self.budget, self._criterion, self._loss
        )
        self.batch_check.no_soft_labels = why
        if why is not None:
            fit_arguments.check_soft_labels(
                arguments or {}, self._augmenter, self.num_classes, why
            )

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, *args, **kwargs):
        call = inspect.signature(keras.Model.evaluate).bind(self, *args, **kwargs)
        in_fit = isinstance(
            call.arguments.get("callbacks"), keras.callbacks.CallbackList
        )
        if not in_fit:
            fit_arguments.check(call.arguments, self.network, self.class_counts)
            fit_arguments.check_some_weight(call.arguments)
        with self._evaluation(in_fit):
            result = super().evaluate(*call.args[1:], **call.kwargs)
        seen = ops.convert_to_numpy(self.clean_accuracy.total)
        if not in_fit and not np.any(seen):
            raise ValueError(
                "`x` must hold images to evaluate on, with a weight above 0. Received: "
                f"none, x={call.arguments.get('x')!r}"
            )
        class_frequencies.check_evaluated(seen, in_fit)
        return result

    @functools.wraps(keras.Model.predict)
    def predict(self, *args, **kwargs):
        call = inspect.signature(keras.Model.predict).bind(self, *args, **kwargs)
        fit_arguments.check_to_predict(call.arguments, self.network)
        return super().predict(*call.args[1:], **call.kwargs)

    @functools.wraps(keras.Model.predict_on_batch)
    def predict_on_batch(self, x):
        fit_arguments.check_to_predict({"x": x}, self.network)
        return super().predict_on_batch(x)

    @contextlib.contextmanager
    def _evaluation(self, in_fit=False):
        """What holds while test steps are made."""
        self._use()
        self._evaluating, self._validating = True, in_fit
        try:
            if self._tested != self.inference_network.name:
                self.make_test_function(force=True)  # there is another network's
                self._tested = self.inference_network.name
            state = self.evaluation_seed.state
            before = ops.copy(state.value)
            if not in_fit:
                # Robust accuracy does not depend on what was evaluated before: the
                # seed stays, and the count of what was drawn with it starts anew.
                state.assign(ops.multiply(state, ops.cast([1, 0], state.dtype)))
            yield
            if not in_fit:  # which may be going on, where a callback evaluates
                state.assign(before)
            self.batch_check.raise_if_wrong()
            self._warn_of_immovable_images()
        finally:
            self._evaluating = self._validating = False

    def _warn_of_immovable_images(self):
        stuck = 1.0 - float(ops.convert_to_numpy(self.attack_moves.result()))
        if ops.convert_to_numpy(self.attack_moves.count) and stuck > STUCK:
            warnings.warn(
                f"{stuck:.1%} of the images count for `robust_accuracy` because the "
                "attack has left them where it started: no gradient of its loss "
                "reaches them, which is no robustness. The logits may be very large, a "
                "layer may stop the gradient, or the units of the network may be dead. "
                "`keras_robustlt.diagnose(model, x, y)` tells more, and "
                "`keras_robustlt.evaluate` with 'autoattack' needs no such gradient.",
                stacklevel=5,
            )
        self.attack_moves.reset_state()  # which training has for its own attack
        used = self.batch_check.share_used
        if used < IDLE and self._some_are_robust():
            warnings.warn(
                f"`evaluation_attack` changes images by {used:.1%} of its epsilon at "
                "most, so that `robust_accuracy` says nothing about robustness: look "
                f"at what it returns. Received: evaluation_attack="
                f"{self.evaluation_attack!r}",
                stacklevel=5,
            )

    def _some_are_robust(self):
        return bool(np.any(ops.convert_to_numpy(self.robust_accuracy.correct)))

    @functools.wraps(keras.Model.export)
    def export(self, *args, **kwargs):
        # The classifier; attacks and losses are of no use to who serves it.
        return self.inference_network.export(*args, **kwargs)

    def _accuracies(self):
        """The names of the results of which a callback may want the highest."""
        results = self.clean_accuracy.results, self.robust_accuracy.results
        return {self.adversarial_accuracy.name, *results[0], *results[1]}

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
            "augmentation": serialize(self.augmentation),
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
        if isinstance(config.get("augmentation"), dict):
            keys = (*keys, "augmentation")
        for key in keys:
            if key in config:
                config[key] = keras.saving.deserialize_keras_object(
                    config[key], custom_objects=custom_objects
                )
        return cls(**config)


def _feature_networks(*every):
    """A function from each of the networks to one that also gives the features."""
    with_features = {id(each): networks.with_features(each) for each in every}
    for each in with_features.values():
        shape = tuple(each.outputs[1].shape)
        if len(shape) != 2:
            raise ValueError(
                "`method` looks at the features that the last layer with weights "
                "classifies, which must be vectors, (batch, features): let `network` "
                f"end in pooling and keras.layers.Dense. Received: shape {shape}"
            )
    # Not a dictionary in the model: Keras would count the weights twice.
    return lambda network: with_features[id(network)]


def _losses_of_call(network):
    """What a network that was just called adds to the loss, but for its weights."""
    losses = network.losses
    return losses[: len(losses) - len(_regularized(network))]  # those come last


def _regularized(network):
    return [v for v in network.trainable_weights if v.regularizer is not None]


def _only_weighed(targets, sample_weight):
    """`targets` with zeros for the images whose weight is 0."""
    if sample_weight is None:
        return targets
    counts = ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1)) > 0
    return targets * ops.cast(counts, "float32")


class _LogitsOfInputs(dict):
    """The logits that a method's loss may look at: those of its `inputs`."""

    def __missing__(self, key):
        raise ValueError(
            f"`inputs` of a method must name what its loss looks at: add {key!r} to "
            f"it, or, of features, set `uses_features`. Received: a loss that looks at "
            f"{key!r} where there are {', '.join(map(repr, self))}"
        )


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
