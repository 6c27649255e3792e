"""What the package uses of Keras and TensorFlow without it being public there.

A test that fails here says which of these has changed and what depends on it: look at
that, and mend it, before a new version of Keras is allowed.
"""

import inspect

import keras
import numpy as np
import pytest
from tiny_models import FIT, conv_network, tiny_model, weights_of

import keras_robustlt as krl

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


@pytest.mark.parametrize(
    ("holder", "name", "used"),
    [
        (keras.Model, "_flatten_layers", "to find float16 layers: model.compile"),
        (keras.Model, "make_test_function", "to change the evaluated network"),
        (keras.layers.RandomFlip, "_get_seed_generator", "in data/layers.py"),
        (keras.Sequential, "_functional", "for features: networks/features.py"),
        (keras.optimizers.Optimizer, "_use_weight_decay", "by optimizers.SGD"),
        (keras.optimizers.Optimizer, "_apply_weight_decay", "by optimizers.SGD"),
        (keras.optimizers.Optimizer, "_clip_gradients", "by optimizers.SGD"),
    ],
)
def test_private_names(holder, name, used):
    found = holder() if name == "_functional" else holder
    assert hasattr(found, name), f"Keras has no {holder.__name__}.{name}, used {used}."


def test_what_a_compiled_model_has():
    model = tiny_model()
    for name in ("_loss_tracker", "_compile_metrics", "_initial_epoch"):
        assert hasattr(model, name), f"Keras's trainer has no {name} any more."
    assert model._loss_tracker.name == "loss", "get_metrics_result reports it"


def test_layers_are_found_however_deep():
    network = keras.Sequential([keras.Input((6, 6, 3)), conv_network()])
    kinds = {type(layer) for layer in network._flatten_layers()}
    assert {keras.layers.Conv2D, keras.layers.Dense} <= kinds


def test_layers_know_their_generators():
    """`data/layers.py` has them give seeds of its own."""
    layer = keras.layers.RandomFlip()
    assert layer._seed_generators == [layer.generator]


def test_seeds_are_a_seed_and_a_count():
    """`evaluate` starts the count anew; `backend.frozen` moves the seed by a draw."""
    generator = keras.random.SeedGenerator(7)
    assert generator.state.name == "seed_generator_state"
    assert np.array(generator.state).tolist() == [7, 0]
    generator.next()
    assert np.array(generator.state).tolist() == [7, 1]


@pytest.mark.parametrize("steps", [None, 2])
def test_weights_decay_once(steps):
    """Keras would decay them too if it no longer called `SGD._apply_weight_decay`."""
    optimizer = krl.optimizers.SGD(
        0.1, weight_decay=0.5, gradient_accumulation_steps=steps
    )
    weight = keras.Variable([1.0])
    for _ in range(steps or 1):
        optimizer.apply([keras.ops.zeros((1,))], [weight])
    np.testing.assert_allclose(weight, [1 - 0.1 * 0.5], 1e-6)


def test_excluded_weights_do_not_decay():
    optimizer = krl.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    bias = keras.Variable([1.0], name="bias")
    optimizer.apply([keras.ops.zeros((1,))], [bias])
    np.testing.assert_allclose(bias, [1.0])


def test_clipping_comes_before_the_decay():
    """Keras calls `SGD._clip_gradients` with the gradients of the loss alone."""
    optimizer = krl.optimizers.SGD(0.1, weight_decay=0.5, clipvalue=1.0)
    weight = keras.Variable([1.0])
    optimizer.apply([keras.ops.ones((1,)) * 8], [weight])
    np.testing.assert_allclose(weight, [1 - 0.1 * (1 + 0.5)], 1e-6)


def test_training_begins_where_it_is_told(images):
    """As a resumed training tells it, with `_initial_epoch`."""
    model = tiny_model()
    model._initial_epoch = 2
    assert model.fit(*images, epochs=3, **FIT).epoch == [2]


def test_gathering_gradients_is_read_at_each_step():
    """`backend.trial_update` switches `gradient_accumulation_steps` off for a step."""
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    weight = keras.Variable([1.0])
    optimizer.build([weight])
    optimizer.gradient_accumulation_steps = None
    optimizer.apply([keras.ops.ones((1,))], [weight])
    np.testing.assert_allclose(weight, [0.9], 1e-6)


@pytest.mark.tensorflow
def test_what_several_workers_need():
    """See `backend/tensorflow.py` and keras issue 20585."""
    import tensorflow as tf

    assert "_in_multi_worker_mode" in dir(tf.distribute.get_strategy().extended)
    build = inspect.signature(keras.Model._maybe_symbolic_build)
    assert list(build.parameters) == ["self", "iterator", "data_batch"]
    source = inspect.getsource(keras.Model.fit)
    assert "self._maybe_symbolic_build(iterator=epoch_iterator)" in source


def test_steps_go_through_our_methods(images):
    """Keras's step calls `call`, `compute_loss` and `compute_metrics`."""
    model, called = tiny_model(beta=0), []
    model.compile(krl.optimizers.SGD(0.1), run_eagerly=ON_TENSORFLOW)
    for name in ("call", "compute_loss", "compute_metrics"):
        method = getattr(model, name)

        def watched(*arguments, _name=name, _method=method, **options):
            called.append(_name)
            return _method(*arguments, **options)

        setattr(model, name, watched)
    before = weights_of(model)
    model.train_on_batch(*images)
    if ON_TENSORFLOW:
        assert called == ["call", "compute_loss", "compute_metrics"]
    assert abs(weights_of(model) - before).max() > 0
