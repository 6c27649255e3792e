"""JAX: the state of the model goes in and out of each compiled function."""

import jax
import keras


def gradient(function, x):
    return jax.grad(function)(x)


def on_accelerator():
    return jax.default_backend() != "cpu"


def compiled(function, variables):
    @jax.jit
    def pure(values, *arguments):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return function(*arguments)

    return lambda *arguments: pure([v.value for v in variables], *arguments)


class StepAdapter:
    def train_step(self, state, data):
        trainable, non_trainable, optimizer, metrics = state
        data, non_trainable = self._stateless(
            self.training_batch, trainable, non_trainable, data
        )
        return super().train_step((trainable, non_trainable, optimizer, metrics), data)

    def test_step(self, state, data):
        trainable, non_trainable, metrics = state
        data, non_trainable = self._stateless(
            self.evaluation_batch, trainable, non_trainable, data
        )
        return super().test_step((trainable, non_trainable, metrics), data)

    def _stateless(self, method, trainable, non_trainable, data):
        """`method(data)` and the non-trainable values that it leaves."""
        mapping = [
            *zip(self.trainable_variables, trainable, strict=True),
            *zip(self.non_trainable_variables, non_trainable, strict=True),
        ]
        with keras.StatelessScope(mapping) as scope:
            data = method(data)
        return data, [scope.get_current_value(v) for v in self.non_trainable_variables]
