"""What is wrong with the network, the arguments or the data is said clearly."""

import copy
import importlib
import types

import keras
import numpy as np
import pytest
from tiny_models import (
    COUNTS,
    FIT,
    ONE_EPOCH,
    dense_network,
    eager_model,
    tiny_model,
    trainer,
)

import keras_robustlt as krl
from keras_robustlt import backend, checks

pytestmark = ONE_EPOCH


def test_probabilities_of_a_functional_network():
    softmax = dense_network(activation="softmax")
    nested = keras.Sequential([keras.Input((6, 6, 3)), softmax])
    layer = keras.Sequential([*dense_network().layers, keras.layers.Softmax()])
    for network in (softmax, nested, layer):
        with pytest.raises(ValueError, match="gives probabilities. Remove the softmax"):
            tiny_model(network)


class Subclassed(keras.Model):
    def __init__(self, classes=3, probabilities=None):
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.dense = keras.layers.Dense(classes)
        self.probabilities = probabilities

    def call(self, x, training=False):
        logits = self.dense(self.flatten(x))
        return self.probabilities(logits) if self.probabilities else logits


def test_subclassed_networks(images):
    x, y = images
    model = tiny_model(Subclassed())
    history = model.fit(x, y, epochs=1, validation_data=images, **FIT)
    assert np.isfinite(history.history["val_loss"][0])


def test_probabilities_of_a_subclassed_network(images):
    x, y = (np.concatenate(3 * [each]) for each in images)
    model = tiny_model(Subclassed(probabilities=keras.ops.softmax))
    with pytest.raises(ValueError, match="its output gives probabilities"):
        model.fit(x, y, **{**FIT, "batch_size": 36})
    assert int(model.optimizer.iterations) == 1  # noticed after one batch


def test_outputs_between_0_and_1_may_be_logits(images):
    x, y = (np.concatenate(3 * [each]) for each in images)
    model = tiny_model(Subclassed(probabilities=keras.ops.sigmoid))
    with pytest.warns(UserWarning, match="between 0 and 1.*ends in a sigmoid"):
        model.fit(x, y, **{**FIT, "batch_size": 36})


def test_number_of_classes(images):
    with pytest.raises(ValueError, match=r"has 3 classes.*outputs of shape \(.*, 4\)"):
        tiny_model(dense_network(4))
    x, y = images
    with pytest.raises(ValueError, match=r"has 3 classes.*outputs of shape"):
        tiny_model(Subclassed(4), beta=0).fit(x, y, **FIT)
    with pytest.raises(ValueError, match=r"outputs of shape \(.*, 4\)"):
        tiny_model(Subclassed(4)).evaluate(x, y, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "resnet18"}, "must be a keras.Model.*Received: network='resnet"),
        ({"epsilon": 8}, "8 / 255"),
        ({"method": "trades9"}, "`method` must be one of 'at', 'at_bsl', 'awp'"),
        ({"class_counts": [5, 0, 1]}, "has no training image"),
        ({"alpha": 2}, "`alpha`"),
        ({"total_epochs": 0.5}, "`total_epochs` must be an integer"),
        ({"batchnorm_statistics": "clean"}, "must be one of 'adversarial', 'mixed'"),
        ({"attack": krl.attacks.PGD(0.2)}, "`attack` must have the epsilon of the"),
        ({"evaluation_attack": krl.attacks.PGD(0.2)}, "`evaluation_attack` must have"),
        ({"attack": krl.attacks.PGD(0.1, restarts=2)}, "`attack` .* restarts=1"),
        ({"attack": krl.attacks.PGD(0.1, loss="margin")}, "`attack_loss` of the m"),
        (
            {"evaluation_attack": krl.attacks.PGD(0.1, norm="l2")},
            "`evaluation_attack` must have the norm of the model's training",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    arguments = {
        "network": dense_network(),
        "class_counts": COUNTS,
        "epsilon": 0.1,
        **arguments,
    }
    with pytest.raises(ValueError, match=message):
        krl.RobustLTModel(**arguments)


class Brighter(krl.attacks.PGD):
    """An attack of one's own, which goes where it likes."""

    shift = 1.0

    def perturb(self, network, x, *arguments, **options):
        return x + self.shift * self.epsilon

    def __call__(self, network, x, y, epsilon=None, seed=None):
        return x + self.shift * self.epsilon


@pytest.mark.parametrize("shift", [3.0, np.nan, -20.0])
def test_attacks_of_ones_own_stay_within_their_ball(images, shift):
    x, y = 0.2 + images[0] / 2, images[1]

    class Further(Brighter):
        pass

    Further.shift = 0.9
    eager_model(evaluation_attack=Further(0.1)).evaluate(x, y, verbose=0)
    Further.shift = shift
    with pytest.raises(ValueError, match="`evaluation_attack` must return images"):
        eager_model(evaluation_attack=Further(0.1)).evaluate(x, y, verbose=0)
    with pytest.raises(ValueError, match="`attack` and .* must return images"):
        eager_model(attack=Further(0.1), beta=0).fit(x, y, verbose=0)


@pytest.mark.parametrize(
    "give",
    [
        *(lambda b: b - 1, lambda b: 80 * b, lambda b: np.nan * b, lambda b: b[:2]),
        lambda b: None,
    ],
)
def test_budgets_of_ones_own_are_budgets(images, give):
    class Mine(krl.budget.Budget):
        def class_epsilon(self, schedule):
            return give(super().class_epsilon(schedule))

    with pytest.raises(ValueError, match="`class_epsilon` of Mine.* must give 3 num"):
        eager_model(budget=Mine()).fit(*images, verbose=0)


@pytest.mark.parametrize(
    "name, value",
    [
        ("class_weight", np.array([1, np.nan, 1], "float32")),
        ("class_weight", np.array([1, -2, 1], "float32")),
        ("loss_weight", 2.0),
        ("loss_weight", "much"),
        ("class_epsilon", np.full(3, np.nan, "float32")),
    ],
)
def test_a_budget_of_ones_own_is_one_in_each_epoch(images, name, value):
    class Mine(krl.budget.Budget):
        uses_clean_loss = True

    def give(self, schedule):
        usual = getattr(krl.budget.Budget, name)(self, schedule)
        return value if int(schedule.epoch) == 1 else usual

    setattr(Mine, name, give)
    with pytest.raises(ValueError, match=f"`{name}` of Mine.* Received in epoch 1"):
        eager_model(budget=Mine()).fit(*images, epochs=5, verbose=0)


@pytest.mark.tensorflow
def test_data_sets_without_a_weight(images):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((*images, np.zeros(12, "float32")))
    with pytest.warns(UserWarning, match="`sample_weight` is 0 for all images"):
        eager_model(beta=0).fit(data.batch(4), epochs=2, verbose=0, shuffle=False)


def test_data_sets_that_can_be_called_to_validate_on(images):
    class Loader(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return images

        def __next__(self):
            return images

    tiny_model(beta=0).fit(*images, validation_data=Loader(), verbose=0)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y: ((255 * x).astype("uint8"), y), "`validation_data`.*uint8"),
        (lambda x, y: (x[:, :3], y), "`validation_data` must hold images of shape"),
        (lambda x, y: x, "`validation_data` must give pairs"),
    ],
)
def test_data_sets_to_validate_on_are_looked_at_before_training(
    images, change, message
):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(change(*images)).batch(4)
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        model.fit(*images, validation_data=data, verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_images_that_are_mixed_inside_the_step_have_no_weights(images):
    mixing = keras.layers.MixUp(seed=0)
    model = eager_model(method="standard", augmentation=mixing)
    with pytest.raises(ValueError, match="`class_weight` and `sample_weight` are of"):
        model.fit(*images, class_weight={0: 1.0, 1: 2.0, 2: 3.0}, verbose=0)


def test_losses_of_ones_own_are_one_for_each_image(images):
    class Mine(krl.methods.AT):
        def loss(self, targets, logits, criterion):
            return targets * logits["adversarial"]

    with pytest.raises(ValueError, match="`loss` of Mine.* one value for each"):
        eager_model(method=Mine()).fit(*images, verbose=0)


@pytest.mark.parametrize("argument", ["attack", "evaluation_attack"])
def test_attacks_that_cannot_run_inside_a_step(argument):
    class OnTheHost(krl.attacks.PGD):
        runs_compiled = False

    with pytest.raises(ValueError, match=f"`{argument}` runs inside.*Use PGD, FGSM"):
        tiny_model(**{argument: OnTheHost(0.1)})


def test_backends_without_gradients(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(ImportError, match="tensorflow and jax.*KERAS_BACKEND=numpy"):
        importlib.reload(backend)


def with_nan(x, y):
    x = x.copy()
    x[2, 0, 0, 0] = x[3] = np.nan
    return x, y


def network_with(*first, last=None):
    last = dense_network() if last is None else last
    return keras.Sequential([keras.Input((6, 6, 3)), *first, last])


def divided(x):
    return keras.layers.Dense(3)(keras.layers.Flatten()((x - 127.5) / 127.5))


layers = keras.layers
FOR_255 = {
    "rescaling": lambda: network_with(layers.Rescaling(1 / 255)),
    "offset": lambda: network_with(layers.Rescaling(1 / 127.5, offset=-1)),
    "imagenet": lambda: network_with(
        layers.Normalization(mean=[123.7, 116.3, 103.5], variance=[3409, 3262, 3291])
    ),
    "later": lambda: network_with(layers.RandomFlip(), layers.Rescaling(1 / 255)),
    "nested": lambda: network_with(last=network_with(layers.Rescaling(1 / 255))),
    "operations": lambda: keras.Model(x := keras.Input((6, 6, 3)), divided(x)),
    "not built": lambda: keras.Sequential(
        [layers.Rescaling(1 / 255), layers.Flatten()]
    ),
}
FOR_1 = {
    "nothing": network_with,
    "centred": lambda: network_with(layers.Rescaling(2.0, offset=-1)),
    "undone": lambda: network_with(
        layers.Rescaling(255.0), last=network_with(layers.Rescaling(1 / 255))
    ),
    "normalized": lambda: krl.networks.WideResNet(10, 1, input_shape=(6, 6, 3)),
    "subclass": Subclassed,
}


@pytest.mark.parametrize("name", FOR_255)
def test_preprocessing_of_images_to_255_inside_the_network(name):
    with pytest.warns(UserWarning, match="black and white are only 0.0"):
        checks.network(FOR_255[name]())


@pytest.mark.parametrize("name", FOR_1)
def test_preprocessing_of_images_in_the_unit_interval(name):
    checks.network(FOR_1[name]())


@pytest.mark.parametrize("scale, warns", [(1 / 127.5, True), (1 / 255, False)])
def test_preprocessing_outside_the_network(scale, warns):
    """As KerasHub's tasks have it: in `fit` and `predict`, not in `call`."""
    network = dense_network()
    converter = types.SimpleNamespace(scale=scale, offset=None)
    network.preprocessor = types.SimpleNamespace(image_converter=converter)
    if not warns:
        return checks.network(network)
    with pytest.warns(UserWarning, match="a preprocessor.*not a part of its `call`"):
        checks.network(network)


BAD_DATA = [
    (with_nan, "not a number"),
    (lambda x, y: (255 * x, y), "pixels from 0 to 255: divide x by 255"),
    (lambda x, y: (x - 0.5, y), "Normalisation .* belongs inside the network"),
    (lambda x, y: (np.uint8(255 * x), y), r"pass x.astype\('float32'\) / 255"),
    (lambda x, y: (x, y + 1), "labels from 0 to 2.*Received labels from [01] to 3"),
    (lambda x, y: (x, y - 1), "labels from 0 to 2.*Received labels from -1 to"),
    (lambda x, y: (x, y / 2), "integer labels"),
    (lambda x, y: (x, 255 * np.eye(3)[y]), "rows.*do not sum to 1"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_DATA)
def test_bad_arrays(images, spoil, message):
    x, y = spoil(*images)
    model = tiny_model()
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=message):
            use(x, y, verbose=0)
    assert int(model.optimizer.iterations) == 0
    message = message.replace("divide x", r"divide validation_data\[0\]")
    message = message.replace("pass x", r"pass validation_data\[0\]")
    with pytest.raises(ValueError, match=message):
        model.fit(*images, validation_data=(x, y), verbose=0)


def channels_first(x):
    return np.moveaxis(x, -1, 1)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("pgd", "`attack` must be an attack"),
        (None, "`attack` must be an attack"),
        (krl.attacks.APGD(0.1), "runs inside a compiled step"),
        (krl.attacks.PGD(0.2), "must have the epsilon of the model"),
        (krl.attacks.PGD(0.1, norm="l2"), "must have the norm of the model's training"),
    ],
)
def test_another_training_attack_is_one_for_this_model(attack, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        model.use_attack(attack)
    assert model.attack_in_use is model.attack


def test_where_training_stands_is_told_in_whole_numbers():
    schedule = tiny_model().schedule
    for name, tell in {
        "epochs": lambda: schedule.start(-1),
        "steps_per_epoch": lambda: schedule.start(2, 1.5),
        "epoch": lambda: schedule.begin_epoch(-1),
    }.items():
        with pytest.raises(ValueError, match=f"`{name}` must be an integer"):
            tell()


WITH_IMAGES = {
    "fit": lambda model, x, y: model.fit(x, y, verbose=0, shuffle=False),
    "evaluate": lambda model, x, y: model.evaluate(x, y, verbose=0),
    "predict": lambda model, x, y: model.predict(x, verbose=0),
    "krl.evaluate": lambda model, x, y: krl.evaluate(model, x, y, attacks=["clean"]),
    "diagnose": lambda model, x, y: krl.diagnose(model.network, x, y),
    "pgd": lambda model, x, y: krl.attacks.PGD(0.1)(model.network, x, y),
    "apgd": lambda model, x, y: krl.attacks.APGD(0.1)(model.network, x, y),
    "guard": lambda model, x, y: krl.callbacks.CollapseGuard(x, y),
    "drift": lambda model, x, y: krl.callbacks.SkewAndDrift(x, y),
}


@pytest.mark.parametrize("use", WITH_IMAGES)
@pytest.mark.parametrize("change", [channels_first, lambda x: x[:, :5]])
def test_images_of_another_shape_than_the_network_takes(images, use, change):
    """Flattened, they go through a `Sequential` as if nothing were wrong."""
    x, y = images
    model = tiny_model()
    with pytest.raises(
        ValueError, match=r"images of shape \(6, 6, 3\), as the network"
    ):
        callback = WITH_IMAGES[use](model, change(x), y)
        if isinstance(callback, keras.callbacks.Callback):
            model.fit(x, y, callbacks=[callback], **FIT)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.tensorflow  # JAX compiles a step for each shape
@pytest.mark.parametrize("use", ["fit", "evaluate", "predict"])
def test_images_whose_shape_is_not_known_before_they_come(images, use):
    """Convolution and pooling would take those of any size."""
    import tensorflow as tf

    x, y = images
    layers = [keras.layers.Conv2D(6, 3), keras.layers.GlobalAveragePooling2D()]
    network = keras.Sequential([keras.Input((6, 6, 3)), *layers, keras.layers.Dense(3)])
    model = tiny_model(network)

    def data(x):
        found = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
        return found.map(lambda x, y: x) if use == "predict" else found

    WITH_IMAGES[use](model, data(x), None)
    for wrong in (channels_first(x), np.concatenate([x, x], axis=1)):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="6"):
            WITH_IMAGES[use](model, data(wrong), None)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: 255 * x, "pixels from 0 to 255"),
        (lambda x: np.uint8(255 * x), "floating-point images"),
        (lambda x: np.full_like(x, np.nan), "not a number"),
        (lambda x: keras.ops.convert_to_tensor(2 * x - 1), "Normalisation"),
        (channels_first, r"images of shape \(6, 6, 3\)"),
        (lambda x: x[:0], "`x` must hold images"),
        (lambda x: x.tolist(), "`x` must be one array"),
    ],
)
def test_predictions_are_for_images_as_training_has_them(images, spoil, message):
    """The network would answer for others too, and nothing in the logits tells."""
    x, _ = images
    model = tiny_model()
    for use in (model.predict, model.predict_on_batch):
        use(x)
        use(x[:5])  # another shape of a batch: what is compiled takes any from here on
        with pytest.raises(ValueError, match=message):
            use(spoil(x))


@pytest.mark.filterwarnings("ignore:.shuffle=True")
@pytest.mark.parametrize(
    ("arguments", "argument"),
    [({"y": np.zeros(1)}, "y"), ({"sample_weight": np.ones(1)}, "sample_weight")],
)
@pytest.mark.parametrize("use", ["fit", "evaluate"])
def test_an_entry_for_each_image_of_a_batch(images, use, arguments, argument):
    """One would be spread over all of them."""
    import tensorflow as tf

    x, y = images
    batch = {"x": x, "y": y, "sample_weight": np.ones(12), **arguments}
    data = (tuple(batch.values()) for _ in range(2))
    errors = (ValueError, tf.errors.InvalidArgumentError)
    with pytest.raises(errors, match=f"`{argument}` must have one entry for each"):
        getattr(eager_model(), use)(data, verbose=0)


def test_weights_may_be_booleans(images):
    train = trainer(tiny_model())
    few = np.arange(12) < 6
    halves = [
        train(images, sample_weight=weight) for weight in (few, few.astype("float32"))
    ]
    np.testing.assert_array_equal(*halves)


@pytest.mark.parametrize(
    "argument", ["budget", "method", "averaging", "attack", "method of AWP"]
)
def test_what_keeps_a_state_is_for_one_model(argument):
    made = {
        "budget": krl.budget.RobustLT,
        "method": krl.methods.ATBSL,
        "averaging": krl.averaging.EMA,
        "attack": lambda: krl.attacks.UDR(0.1),
        "method of AWP": krl.methods.ATBSL,
    }
    part = made[argument]()
    name = argument.partition(" ")[0]
    first = tiny_model(**{name: part})
    again = krl.methods.AWP(part) if " " in argument else part
    other = {} if name in ("averaging", "attack") else {"class_counts": [9, 3, 1]}
    if argument == "budget":
        of_first = part.class_epsilon(first.schedule)
    with pytest.raises(ValueError, match=f"`{name}` is part of another model"):
        tiny_model(**{name: again}, **other)
    if argument == "budget":  # which is what it was
        np.testing.assert_array_equal(part.class_epsilon(first.schedule), of_first)
    # A copy is another part, and so is one for the same classes and budget.
    tiny_model(**{name: copy.deepcopy(made[argument]())}, **other)
    if other:
        tiny_model(**{name: part})
        tiny_model(**{name: copy.deepcopy(part)}, **other)
    # What makes no state may be for any number of them.
    for _ in range(2):
        attack = krl.attacks.PGD(0.1)
        tiny_model(method=krl.methods.AWP("at"), attack=attack)
        tiny_model(attack=attack, evaluation_attack=attack)


def test_settings_are_those_that_a_model_was_made_with():
    model = tiny_model(method="trades")
    for part, name in ((model.budget, "alpha"), (model.method, "beta")):
        with pytest.raises(AttributeError, match=f"`{name}` of .* a model was made"):
            setattr(part, name, -5)
    for attack in (model.attack, model.evaluation_attack):
        for name in ("steps", "norm"):
            with pytest.raises(AttributeError, match=f"`{name}` of PGD"):
                setattr(attack, name, 0)


@pytest.mark.parametrize(
    ("epsilon", "norm"), [(8 / 255 / 255, "linf"), (8 / 255, "l2")]
)
def test_a_budget_that_is_next_to_nothing(images, epsilon, norm):
    attack = krl.attacks.PGD(epsilon, 2, norm=norm)
    with pytest.warns(UserWarning, match=r"epsilon=0.0.* says nothing about robustn"):
        model = krl.RobustLTModel(dense_network(), COUNTS, epsilon, attack=attack)
    with pytest.warns(krl.RobustnessWarning, match="says nothing about robustness"):
        found = krl.evaluate(model, *images, attacks=["pgd2"], verbose=0)
    assert "tiny_budget" in [f["check"] for f in found.settings["findings"]]
    found = krl.diagnose(model.network, *images, epsilon=epsilon, norm=norm, queries=0)
    assert "tiny_budget" in [finding["check"] for finding in found.findings]


def test_no_budget_at_all():
    with pytest.warns(UserWarning, match="epsilon=0 is no budget.* 8 / 255"):
        krl.RobustLTModel(dense_network(), COUNTS, 8 // 255)


class Idle(krl.attacks.Attack):
    runs_compiled = True

    def __call__(self, network, x, y, epsilon=None, seed=None):
        return x


@pytest.mark.parametrize("attack", ["idle", "noise"])
def test_an_evaluation_attack_that_is_none(images, attack):
    made = {
        "idle": lambda: Idle(0.1),
        "noise": lambda: krl.attacks.PGD(0.1, steps=1, step_size=1e-6),
    }
    with pytest.warns(UserWarning, match="`evaluation_attack`.* robustness"):
        model = tiny_model(evaluation_attack=made[attack]())
        model.evaluate(*images, verbose=0)


class Stays(krl.attacks.PGD):
    def perturb(self, network, x, y, start, *args, **kwargs):
        return x


def test_a_training_attack_that_is_none(images):
    with pytest.warns(UserWarning, match="training attack changes images by 0.0%"):
        tiny_model(attack=Stays(0.1), beta=0).fit(*images, **FIT)


@pytest.mark.tensorflow
def test_images_that_are_divided_twice(images):
    import tensorflow as tf

    x, y = (np.concatenate(3 * [each]) for each in images)
    data = tf.data.Dataset.from_tensor_slices((x / 255, y)).batch(12)
    for arguments in ((x / 255, y), (data,)):
        with pytest.warns(UserWarning, match="as good as black.* divided by 255 twice"):
            tiny_model().fit(*arguments, **{**FIT, "epochs": 1})


@pytest.mark.parametrize(
    "arguments, weight",
    [({"beta": 0}, 1), ({"method": "standard"}, 1), ({"beta": 0}, 1e38)],
)
def test_training_that_has_diverged_says_so(images, arguments, weight):
    x, y = images
    model = tiny_model(optimizer=keras.optimizers.SGD(1e38), **arguments)
    weights = np.full(len(y), weight, "float32")
    with pytest.warns(UserWarning, match="Training has diverged"):
        model.fit(x, y, sample_weight=weights, **FIT)


@pytest.mark.tensorflow
@pytest.mark.parametrize("floatx", ["float16", "float64"])
def test_floats_of_keras_may_be_others(images, floatx):
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        model = tiny_model(budget="dafa")
        model.fit(*images, **FIT)
        attacks = ["pgd2", "apgd-ce", "fab", "square"]
        results = krl.evaluate(model, *images, attacks=attacks, verbose=0)
    finally:
        keras.config.set_floatx(before)
    assert set(attacks) < set(results)


def test_networks_have_their_channels_last():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="channels last"):
            krl.networks.WideResNet(10, 1, classes=3)
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.filterwarnings("ignore:class_weight")
def test_weights_of_classes_on_top_of_a_loss_that_has_them(images):
    with pytest.warns(UserWarning, match="each make up for how rare a class is"):
        tiny_model(method="at_bsl").fit(*images, class_weight="balanced", **FIT)


class Pairs(keras.utils.PyDataset):
    """A single batch of images and labels."""

    def __init__(self, x, y):
        super().__init__()
        self.batch = x, y

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.batch


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.tensorflow
def test_predictions_of_data_sets_are_for_images_too(images):
    import tensorflow as tf

    x, y = images
    rows = tf.data.Dataset.from_tensor_slices
    model = eager_model()
    for data in (Pairs, lambda x, y: rows((x, y)).batch(5), lambda x, _: rows([x])):
        np.testing.assert_array_equal(model.predict(data(x, y)).shape, (12, 3))
        with pytest.raises(ValueError, match="pixels from 0 to 255"):
            model.predict(data(255 * x, y))
    with pytest.raises(ValueError, match="repeats itself for ever"):
        model.predict(rows(x).batch(4).repeat())
    once = (each for each in (x[:4], x[4:]))
    signature = tf.TensorSpec((None, *x.shape[1:]))
    data = tf.data.Dataset.from_generator(lambda: once, output_signature=signature)
    assert len(model.predict(data)) == 12  # nothing is read before


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_must_have_images(images):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(images).batch(4)
    none = data.filter(lambda x, y: False)  # which nobody knows before
    for use in ("fit", "evaluate"):
        with pytest.raises(ValueError, match="`x` must hold"):
            WITH_IMAGES[use](eager_model(), none, None)


def test_what_a_model_is_made_with_stays():
    model = tiny_model()
    for name in ("epsilon", "attack", "budget", "network", "alpha", "granularity"):
        with pytest.raises(
            AttributeError, match=f"`{name}` is what the model was made"
        ):
            setattr(model, name, getattr(model, name, 0.9))
    with pytest.raises(AttributeError, match="`epoch` of the schedule is a variable"):
        model.schedule.epoch = 3
    with pytest.raises(ValueError, match="`total_epochs` must be"):
        model.total_epochs = 0
    with pytest.raises(ValueError, match="read-only"):
        model.class_counts[0] = 1
    model.evaluation_attack = krl.attacks.PGD(0.1, steps=3)
    model._use()
    with pytest.raises(AttributeError, match="`evaluation_attack` is what"):
        model.evaluation_attack = krl.attacks.PGD(0.1, steps=2)
    parts = {
        "alpha": model.budget,
        "step_size": model.attack,
        "label_smoothing": model.method,
    }
    for name, part in parts.items():
        with pytest.raises(AttributeError, match=f"`{name}` of .* is what a model"):
            setattr(part, name, 0.5)


@pytest.mark.tensorflow
def test_an_epoch_must_end(images):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(images).batch(4).repeat()
    model = eager_model()
    with pytest.raises(ValueError, match="`x` repeats itself.*`steps_per_epoch`"):
        model.fit(data, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="`x` repeats itself.*`steps`"):
        model.evaluate(data, verbose=0)
    arguments = {"validation_data": data, "steps_per_epoch": 1, "shuffle": False}
    with pytest.raises(ValueError, match="`validation_data` repeats itself"):
        model.fit(data, verbose=0, **arguments)


BAD_WEIGHTS = [
    (lambda w: -w, "at least 0. Received: some that are negative"),
    (lambda w: np.where(w < 0.5, np.nan, w), "at least 0. Received: some that are"),
    (lambda w: np.where(w < 0.5, np.inf, w), "at least 0. Received: some that are"),
    (lambda w: np.stack([w, w], axis=1), r"a shape of \(images,\).*, 2\)"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_WEIGHTS)
def test_bad_sample_weights(images, spoil, message):
    x, y = images
    weights = spoil(np.linspace(0, 1, len(x), dtype="float32"))
    for use in (tiny_model().fit, tiny_model().evaluate):
        with pytest.raises(ValueError, match=f"`sample_weight` must .*{message}"):
            use(x, y, sample_weight=weights, verbose=0)
    with pytest.raises(ValueError, match=r"`validation_data\[2\]` must"):
        tiny_model().fit(x, y, validation_data=(x, y, weights), verbose=0)


@pytest.mark.tensorflow
@pytest.mark.parametrize(("spoil", "message"), BAD_WEIGHTS)
def test_bad_sample_weights_in_datasets(images, spoil, message):
    import tensorflow as tf

    x, y = images
    weights = spoil(np.linspace(0, 1, len(x), dtype="float32"))
    bad = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(4)
    with pytest.raises(ValueError, match=f"`sample_weight` must .*{message}"):
        eager_model().fit(bad, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=f"`sample_weight` must .*{message}"):
        eager_model().evaluate(bad, verbose=0)


@pytest.mark.tensorflow
@pytest.mark.parametrize(("spoil", "message"), BAD_DATA)
def test_bad_datasets(images, spoil, message):
    import tensorflow as tf

    bad = tf.data.Dataset.from_tensor_slices(spoil(*images)).batch(4)
    # The next test has compiled steps.
    with pytest.raises(ValueError, match=message):
        eager_model().fit(bad, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=message):
        eager_model().evaluate(bad, verbose=0)


@pytest.mark.tensorflow
def test_bad_batches_late_in_an_epoch_and_in_validation(images):
    import tensorflow as tf

    x, y = images
    late = tf.data.Dataset.from_tensor_slices((x, np.r_[y[:-1], 7])).batch(4)
    good = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    for data, validation in ((late, None), (late, good), (good, late)):
        with pytest.raises(ValueError, match="Received labels from 0 to 7"):
            tiny_model().fit(data, validation_data=validation, shuffle=False, verbose=0)


@pytest.mark.tensorflow  # JAX compiles a step for each kind
@pytest.mark.parametrize("first", [True, False])
def test_batches_without_images(images, first):
    x, y = (each[:8] for each in images)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            kept = slice(0, 0) if first == (index == 0) else slice(None)
            return x[kept], y[kept]

    model = tiny_model()
    if keras.backend.backend() == "jax":
        with pytest.raises(ValueError, match="a batch without images: leave it out"):
            model.fit(Batches(), verbose=0)
        return
    history = model.fit(Batches(), validation_data=Batches(), verbose=0).history
    assert np.isfinite([*history["loss"], *history["val_loss"]]).all()


def test_labels_of_several_kinds(images):
    x, y = images
    model = tiny_model()
    model.fit(x, y, verbose=0)
    model.fit(x, np.eye(3)[y], verbose=0)
    with pytest.raises(ValueError, match="`y` must hold labels of one kind"):
        model.fit(x, y[:, None], verbose=0)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(12) / 2, "must hold integer labels. Received dtype float64"),
        (np.zeros((12, 2)), r"of shape \(batch, 3\). Received shape: \(12, 2\)"),
        (np.zeros((12, 3)), "its rows do not sum to 1"),
        (np.array(["cat"] * 12), "must hold integer labels"),
    ],
)
def test_bad_labels(images, labels, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().fit(images[0], labels, verbose=0)
