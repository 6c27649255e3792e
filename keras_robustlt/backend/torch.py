"""PyTorch: eager, with the state in the variables, as in TensorFlow."""

import keras
import torch


def choose(chosen, images, others):
    chosen = chosen.reshape((-1,) + (1,) * (len(images.shape) - 1))
    return torch.where(chosen, images, others)


def gradient(function, x):
    single = not isinstance(x, list)
    inputs = [v.detach().requires_grad_() for v in ([x] if single else x)]
    with torch.enable_grad():
        value = function(inputs[0] if single else inputs)
    gradients = torch.autograd.grad(value, inputs)
    return gradients[0] if single else list(gradients)


def gradient_and_outputs(function, x):
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value, outputs = function(x)
    outputs = keras.tree.map_structure(torch.Tensor.detach, outputs)
    return torch.autograd.grad(value, x)[0], outputs


def on_accelerator():
    # Only `repeat` asks; eager PyTorch has no graph in which a loop could be.
    return False


def compiled(function, variables):
    del variables

    def without_graph(*arguments):
        with torch.no_grad():
            tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, arguments)
            return function(*tensors)

    return without_graph


class StepAdapter:
    def train_step(self, data):
        batch, shift = self.begin_step(data)
        for weight, change in shift:
            weight.assign_add(change)
        logs = super().train_step(batch)
        for weight, change in shift:
            weight.assign_sub(change)
        self.end_step(batch)
        return logs

    def test_step(self, data):
        return super().test_step(self.evaluation_batch(data))
