"""JAX: the state of the model goes in and out of each compiled function."""

import jax
import keras
from jax import numpy as jnp


def choose(chosen, images, others):
    chosen = jnp.reshape(chosen, (-1,) + (1,) * (len(images.shape) - 1))
    return jnp.where(chosen, images, others)


def gradient(function, x):
    return jax.grad(function)(x)


def gradient_and_outputs(function, x):
    return jax.grad(function, has_aux=True)(x)


def on_accelerator():
    return jax.default_backend() != "cpu"


def of_shape(images, shape):
    return images  # whose sizes are always known


def as_many(values, others, message):
    if len(values) != len(others):
        raise ValueError(message)
    return values


def compiled(function, variables):
    @jax.jit
    def pure(values, *arguments):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return function(*arguments)

    return lambda *arguments: pure([v.value for v in variables], *arguments)


def traceable(function):
    return function


class StepAdapter:
    def train_step(self, state, data):
        trainable, non_trainable, optimizer, metrics = state
        mapping = self._mapping(trainable, non_trainable)
        mapping += zip(self.optimizer.variables, optimizer, strict=True)
        with keras.StatelessScope(mapping) as scope:
            batch, shift = self.prepare_step(data)
        non_trainable = self._non_trainable(scope)
        trainable = self._shifted(trainable, shift, 1)
        logs, state = super().train_step(
            (trainable, non_trainable, optimizer, metrics), batch
        )
        trainable, non_trainable, optimizer, metrics = state
        trainable = self._shifted(trainable, shift, -1)
        with keras.StatelessScope(self._mapping(trainable, non_trainable)) as scope:
            self.end_step(batch)
        return logs, (trainable, self._non_trainable(scope), optimizer, metrics)

    def test_step(self, state, data):
        trainable, non_trainable, metrics = state
        with keras.StatelessScope(self._mapping(trainable, non_trainable)) as scope:
            batch = self.evaluation_batch(data)
        state = trainable, self._non_trainable(scope), metrics
        return super().test_step(state, batch)

    def _shifted(self, trainable, shift, sign):
        changes = {id(weight): sign * change for weight, change in shift}

        def shifted(weight, value):
            if id(weight) not in changes:
                return value
            value = value + changes[id(weight)]
            # A constraint held where the update was made.
            free = sign > 0 or weight.constraint is None
            return value if free else weight.constraint(value)

        return list(map(shifted, self.trainable_variables, trainable))

    def _mapping(self, trainable, non_trainable):
        return [
            *zip(self.trainable_variables, trainable, strict=True),
            *zip(self.non_trainable_variables, non_trainable, strict=True),
        ]

    def _non_trainable(self, scope):
        return [scope.get_current_value(v) for v in self.non_trainable_variables]
