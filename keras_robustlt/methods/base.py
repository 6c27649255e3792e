"""What a base method is."""

import warnings

import keras

from keras_robustlt import losses
from keras_robustlt.configurable import Part


def layers_of(method):
    """A method, the one that it is on top of, and so on down."""
    while method is not None:
        yield method
        method = getattr(method, "method", None)


def of_each(values, method):
    """`values` of a criterion, if there is one for each image, to weigh it by."""
    if len(values.shape) == 0:
        raise ValueError(
            "`loss` of `compile` must give one value for each example, of shape "
            f"(batch,), with {method}, which weighs the examples. Received: a loss "
            "that gives their mean"
        )
    return values


class Method(Part):
    """A base method: which images its loss looks at, and the loss.

    A method does not know about budgets: `RobustLTModel` perturbs the images within
    whatever the budget allows, runs the network, and hands the logits over. With its
    hyper-parameters as attributes and in `get_config`, a subclass is complete with
    `loss`; the other methods here are for those that need more.

    Attributes:
        inputs: The images that `loss` needs the logits of: `"adversarial"`,
            `"clean"`, or both. The network runs on no others.
        uses_features: Whether `loss` also looks at the features that the network's
            last layer classifies.
        attack_compares: Whether `attack_loss` compares with the logits of the clean
            images.
        default_attack: The name of the training attack, where none is given.
        soft_labels: Whether `loss` and `attack_loss` hold for targets that are a mix
            of classes. So they do where they are linear in `targets`: the loss of the
            mix is the mix of the losses. Others are refused such labels.
        loss_of_batch: Whether `loss` has one value for the batch in place of one for
            each image, so that no weights of images or of classes can be put to it.
        balances: Whether `loss` makes up for how rare a class is, so that balanced
            sampling or weights of the classes would do it once more.
        adds_prior: Whether `loss` adds a prior of the classes to the logits. Labels
            that are smoothed uniformly then ask for rare classes: the network learns
            to give a class that is 50 times rarer a logit higher by `log(50)`, for
            images of all classes. So `compile` warns of such a `loss`.
        smooths_labels: Whether `criterion` may be one that smooths the labels: whether
            the loss stays what it is meant to be.

    Example:

    ```python
    class Halves(krl.methods.Method):
        inputs = ("adversarial", "clean")

        def loss(self, targets, logits, criterion):
            adversarial = criterion(targets, logits["adversarial"])
            return (adversarial + criterion(targets, logits["clean"])) / 2


    model = krl.RobustLTModel(network, class_counts, method=Halves())
    ```
    """

    inputs = ("adversarial",)
    uses_features = False
    attack_compares = False
    default_attack = "pgd"
    soft_labels = False
    loss_of_batch = False
    balances = False
    adds_prior = False
    smooths_labels = True

    @property
    def moves_weights(self):
        """Whether there is a `weight_shift`."""
        return type(self).weight_shift is not Method.weight_shift

    def check_label_smoothing(self, label_smoothing):
        """Raises a ValueError if labels are to be smoothed that may not be, and warns
        where they had better not."""
        if label_smoothing and not self.smooths_labels:
            raise ValueError(
                f"`label_smoothing` must be 0 with {self}, whose loss weighs an image "
                "by how sure the network is of its one class. "
                f"Received: label_smoothing={label_smoothing}"
            )
        if label_smoothing and self.adds_prior:
            warnings.warn(
                f"The loss smooths labels uniformly beside the prior that {self} adds: "
                "together they prefer rare classes for images of any class, and "
                "frequent ones lose accuracy. AT-BSL and REAT have an argument "
                "`label_smoothing` that smooths towards the classes' shares of the "
                "training images instead.",
                stacklevel=4,
            )

    def check_attack(self, attack):
        """Raises a ValueError if `attack_loss` makes no sense for `attack`.

        Called with the training attack of the model, and with each that `use_attack`
        puts in its place.
        """

    def build(self, model):
        """Prepares what depends on the model: called once, with the `RobustLTModel`.

        A method with state makes it here, with `model.add_weight(...)`: it is saved
        with the model and goes on after an interruption.
        """

    def begin_step(self, schedule):
        """Changes the state when a training step begins, inside the compiled graph."""

    def attacks(self, schedule):
        """Whether this step attacks at all.

        Args:
            schedule: The model's `Schedule`; its variables say where training is.

        Returns:
            `None`, which is that it does, or a boolean scalar tensor.
        """
        return None

    def scheduled(self, schedule):
        """What the method sets by how far training is, as a share of its length.

        `callbacks.Checkpoint` goes on only where it is what it was.

        Args:
            schedule: The model's `Schedule`.

        Returns:
            A list of scalars.
        """
        return []

    def attack_loss(self, targets, logits, clean_logits=None):
        """What the training attack raises, one value for each example.

        The plain cross-entropy unless overridden, also for methods that train with
        another loss.

        Args:
            targets: Float32 tensor `(batch, num_classes)`, as in `loss`.
            logits: Float32 tensor `(batch, num_classes)`, of the images as they are
                attacked so far.
            clean_logits: The same of the clean images, if `attack_compares`. Defaults
                to `None`.

        Returns:
            A float32 tensor of shape `(batch,)`.
        """
        return losses.cross_entropy(targets, logits)

    def loss(self, targets, logits, criterion):
        """What training lowers, one value for each example.

        Args:
            targets: Float32 tensor `(batch, num_classes)`, one-hot labels, or soft
                ones if `soft_labels`.
            logits: Dictionary with a float32 tensor `(batch, num_classes)` for each
                of `inputs`, and, if `uses_features`, one of shape
                `(batch, num_features)` for each under the name with `"_features"`.
            criterion: The loss given to `compile`, or the cross-entropy: a function
                of `(targets, logits)` with one value for each example.

        Returns:
            A float32 tensor of shape `(batch,)`, or a scalar for a loss that is not
            a mean over examples; such a one cannot go with sample weights.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `loss`.")

    def update(self, targets, logits):
        """Takes in what the network said of the images trained on.

        Called in each training step with the arguments of `loss`, inside the compiled
        graph, for a state that follows training. `targets` are zeros for images with a
        weight of 0, which do not count.
        """

    def weight_shift(self, model, batch):
        """Moves the weights at which the step takes its gradient.

        Args:
            model: The `RobustLTModel`.
            batch: What `model.training_batch` gave.

        Returns:
            A list of pairs: a trainable variable and its change, which is undone
            after the update.
        """
        return []


class OnTop(Method):
    """A method on top of another one, which it is like in all that it does not say.

    Args:
        method: The other method, by name or as an object.
    """

    def __init__(self, method):
        from keras_robustlt import methods  # which has the subclasses among its names

        self.method = methods.get(method)
        if any(isinstance(each, type(self)) for each in layers_of(self.method)):
            raise ValueError(
                f"`method` is of {type(self).__name__} already, which does its part "
                f"once. Received: method={self.method!r}"
            )
        for name in (
            "inputs",
            "uses_features",
            "attack_compares",
            "default_attack",
            "soft_labels",
            "loss_of_batch",
            "balances",
            "adds_prior",
            "smooths_labels",
        ):
            setattr(self, name, getattr(self.method, name))

    @property
    def moves_weights(self):
        return self.method.moves_weights

    def check_attack(self, attack):
        self.method.check_attack(attack)

    def build(self, model):
        self.method.build(model)

    def begin_step(self, schedule):
        self.method.begin_step(schedule)

    def attacks(self, schedule):
        return self.method.attacks(schedule)

    def attack_loss(self, targets, logits, clean_logits=None):
        if self.attack_compares:
            return self.method.attack_loss(targets, logits, clean_logits)
        return self.method.attack_loss(targets, logits)

    def loss(self, targets, logits, criterion):
        return self.method.loss(targets, logits, criterion)

    def update(self, targets, logits):
        self.method.update(targets, logits)

    def weight_shift(self, model, batch):
        return self.method.weight_shift(model, batch)


def warn_unless_cosines(method, network):
    """Warns if a network ends in a layer whose logits have no bounds.

    Args:
        method: The method, whose margins and scale are meant for cosines.
        network: A `keras.Model`. What a subclassed one ends in is not known.
    """
    last = network
    while isinstance(last, keras.Model):
        in_order = isinstance(last, keras.Sequential) or hasattr(last, "operations")
        weighted = [each for each in last.layers if each.weights]
        if not (in_order and weighted):
            return
        last = weighted[-1]
    # A cosine layer of one's own may be a Dense one, which then has no bias.
    if isinstance(last, keras.layers.Dense) and last.use_bias:
        warnings.warn(
            f"{method} is meant for the logits of a cosine classifier, which its scale "
            "and margins are relative to: end the network in one, such as "
            'krl.networks.get(..., head="cosplus"). Received: a network that ends in '
            f"the Dense layer {last.name!r}",
            stacklevel=5,
        )
