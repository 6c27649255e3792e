"""The best PyTorch step that its own means allow, without kernels of one's own.

As `torch_baseline.py`, with what PyTorch offers for speed: `torch.compile` of the
network, the losses and the attack's elementwise part, channels-last memory, the fused
optimizer, cuDNN's search for algorithms, and no wait for the loss after each step. Two
things are for the compiler's sake:

- the compiled backward pass computes the gradients of everything that asks for one, so
  the weights do not ask during the attack: the compiler makes two networks of one, and
  the attack's computes no gradients of weights;
- AWP moves the weights in place, with one fused operation over all of them, instead of
  copying the network.
"""

import contextlib

import torch
import torch.nn.functional as F
import torch_baseline


class Trainer(torch_baseline.Trainer):
    def __init__(self, cell):
        super().__init__(cell)
        torch.backends.cudnn.benchmark = True
        self.network.to(memory_format=torch.channels_last)
        self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.parameters = list(self.network.parameters())
        self.kernels = [p for p in self.parameters if p.dim() > 1]
        self.optimizer = self.build_optimizer(fused=True)
        self.compiled_network = torch.compile(self.network, dynamic=False)
        self.ascend = torch.compile(ascend, dynamic=False)
        loss = self.loss
        self.loss = torch.compile(lambda *arguments: loss(*arguments), dynamic=False)

    def forward(self, x):
        return super().forward(x, self.compiled_network)

    def step(self):
        with self.frozen_weights():
            x_adv = self.perturb()
        changes = self.worsen_weights(x_adv) if self.awp else []
        loss = self.training_loss(x_adv)
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            self.optimizer.step()
            if changes:
                torch._foreach_sub_(self.kernels, changes)
        return loss.detach()

    @contextlib.contextmanager
    def frozen_weights(self):
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        yield
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def perturb(self):
        epsilon, step_size = self.attack["epsilon"], self.attack["step_size"]
        noise = torch.empty_like(self.x).uniform_(-epsilon, epsilon)
        x_adv = (self.x + noise).clamp(0, 1)
        for _ in range(self.attack["steps"]):
            x_adv.requires_grad_()
            loss = F.cross_entropy(self.forward(x_adv), self.y)
            (gradient,) = torch.autograd.grad(loss, x_adv)
            x_adv = self.ascend(self.x, x_adv.detach(), gradient, step_size, epsilon)
        return x_adv

    @torch.no_grad()
    def worsen_weights(self, x_adv):
        """Moves the kernels up the loss, and gives their changes."""
        with torch.enable_grad():
            loss = F.cross_entropy(self.forward(x_adv), self.y)
            gradients = list(torch.autograd.grad(loss, self.kernels))
        sizes = torch._foreach_norm(self.kernels)
        torch._foreach_mul_(sizes, self.awp.gamma)
        lengths = torch._foreach_norm(gradients)
        torch._foreach_add_(lengths, 1e-20)
        torch._foreach_div_(sizes, lengths)
        torch._foreach_mul_(gradients, sizes)
        torch._foreach_add_(self.kernels, gradients)
        return gradients


def ascend(x, x_adv, gradient, step_size, epsilon):
    """One step of the attack, in the ball around `x` and in [0, 1]."""
    moved = x_adv + step_size * gradient.sign()
    return torch.clamp(moved, x - epsilon, x + epsilon).clamp(0, 1)
