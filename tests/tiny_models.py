"""Networks and models that train in a moment."""

import keras
import numpy as np
import pytest

import keras_robustlt as krl

COUNTS = (8, 3, 1)
FIT = {"batch_size": 4, "verbose": 0, "shuffle": False}
# A mark of tests that train for one epoch, in which a growing budget is still 0.
ONE_EPOCH = pytest.mark.filterwarnings("ignore:In all of this training, of 1 epoch")


def dense_network(classes=3, input_shape=(6, 6, 3), activation=None):
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation=activation),
        ]
    )


def conv_network(batchnorm=krl.layers.BatchNormalization, input_shape=(6, 6, 3)):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(4, 3, strides=2, use_bias=False),
            batchnorm(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def threshold_network(threshold=0.0):
    """One pixel `z`, logits `(z - threshold, threshold - z)`: class 0 is bright."""
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    network.set_weights([np.array([[1.0, -1.0]]), np.array([-threshold, threshold])])
    return network


def tiny_model(network=None, class_counts=COUNTS, optimizer=None, **arguments):
    """A compiled model whose attacks have two steps."""
    epsilon = arguments.setdefault("epsilon", 0.1)
    for attack in ("attack", "evaluation_attack"):
        arguments.setdefault(attack, krl.attacks.PGD(epsilon, steps=2))
    arguments.setdefault("seed", 0)
    model = krl.RobustLTModel(network or dense_network(), class_counts, **arguments)
    model.compile(optimizer or krl.optimizers.SGD(0.1))
    return model


def eager_model(*arguments, **options):
    """A `tiny_model` whose few steps run at once: tracing them would take longer."""
    model = tiny_model(*arguments, **options)
    model.compile(model.optimizer, run_eagerly=True)
    return model


def weights_of(model):
    """All weights of the network in one vector."""
    return np.concatenate([w.ravel() for w in model.network.get_weights()])


def trained(images, model=None, **arguments):
    """The weights after a short fit."""
    model = model or tiny_model()
    x, y = images
    arguments = {"x": x, "y": y, "epochs": 2, **FIT, **arguments}
    model.fit(**arguments)
    return weights_of(model)


def trainer(model):
    """`trained` as a function that begins with the model as it is now, at each call.

    Where trainings differ in their data only, it spares tracing a step for each.
    """
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    values = [keras.ops.convert_to_numpy(v).copy() for v in variables]

    def train(images, **arguments):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return trained(images, model, **arguments)

    return train
