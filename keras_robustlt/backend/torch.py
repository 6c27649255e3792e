"""PyTorch: eager, with the state in the variables, as in TensorFlow."""

import keras
import torch


def gradient(function, x):
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = function(x)
    return torch.autograd.grad(value, x)[0]


def on_accelerator():
    # Only `repeat` asks; eager PyTorch has no graph in which a loop could be.
    return False


def compiled(function, variables):
    del variables

    def without_graph(*arguments):
        with torch.no_grad():
            return function(*(keras.ops.convert_to_tensor(a) for a in arguments))

    return without_graph


class StepAdapter:
    def train_step(self, data):
        return super().train_step(self.training_batch(data))

    def test_step(self, data):
        return super().test_step(self.evaluation_batch(data))
