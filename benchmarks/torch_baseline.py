"""The plain eager PyTorch side of `step.py`: the networks and one training step.

This is adversarial training as an ordinary PyTorch user writes it: modules of
`torch.nn`, a loop of gradient steps on the input, `optimizer.step()`. No compiler, no
channels-last memory, no custom kernels. Two choices are in PyTorch's favour, where
scripts that people share often do more work than they need: the attack asks autograd
for the gradient of the input alone, and nothing but the loss is read from the step.

The networks have the parameter counts of `keras_robustlt.networks`.
"""

import re

import torch
import torch.nn.functional as F
from torch import nn

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2471, 0.2435, 0.2616)


class Normalize(nn.Module):
    """Brings images in [0, 1] to zero mean and unit variance, by channel."""

    def __init__(self, mean=CIFAR10_MEAN, std=CIFAR10_STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


def conv3x3(channels_in, channels_out, stride=1):
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


def conv1x1(channels_in, channels_out, stride=1):
    return nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)


class WideBlock(nn.Module):
    """Two convolutions, each after BatchNorm and ReLU, and a shortcut."""

    def __init__(self, channels_in, channels_out, stride):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.projection = None
        if channels_in != channels_out:
            self.projection = conv1x1(channels_in, channels_out, stride)

    def forward(self, x):
        activated = F.relu(self.norm1(x))
        shortcut = x if self.projection is None else self.projection(activated)
        out = self.conv1(activated)
        out = self.conv2(F.relu(self.norm2(out)))
        return out + shortcut


class WideResNet(nn.Module):
    """WideResNet-`depth`-`width` for 32x32 images."""

    def __init__(self, depth, width, classes):
        super().__init__()
        blocks = (depth - 4) // 6
        layers = [Normalize(), conv3x3(3, 16)]
        channels = 16
        for stage, stride in enumerate((1, 2, 2)):
            channels_out = 16 * width * 2**stage
            for block in range(blocks):
                block_stride = stride if block == 0 else 1
                layers.append(WideBlock(channels, channels_out, block_stride))
                channels = channels_out
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """Two convolutions, each followed by BatchNorm, and a shortcut."""

    def __init__(self, channels_in, channels_out, stride):
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                conv1x1(channels_in, channels_out, stride),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x):
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet of basic blocks with the stem for 32x32 images."""

    def __init__(self, blocks, classes):
        super().__init__()
        layers = [Normalize(), conv3x3(3, 64), nn.BatchNorm2d(64), nn.ReLU()]
        channels = 64
        for stage, count in enumerate(blocks):
            channels_out = 64 * 2**stage
            for block in range(count):
                stride = 2 if block == 0 and stage > 0 else 1
                layers.append(BasicBlock(channels, channels_out, stride))
                channels = channels_out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def build_network(name, classes):
    """Returns the network that `step.py --model` names."""
    if wide := re.fullmatch(r"wrn-(\d+)-(\d+)", name):
        return WideResNet(int(wide[1]), int(wide[2]), classes)
    return ResNet({"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}[name], classes)


def perturb(network, x, y, epsilon, step_size, steps):
    """Returns the examples that PGD finds in the Linf ball around `x`."""
    start = x + torch.empty_like(x).uniform_(-epsilon, epsilon)
    x_adv = start.clamp(0, 1)
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.cross_entropy(network(x_adv), y)
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = x_adv.detach() + step_size * gradient.sign()
        x_adv = torch.clamp(x_adv, x - epsilon, x + epsilon).clamp(0, 1)
    return x_adv.detach()


class Trainer:
    """A network, its optimizer and a fixed batch; `step()` trains on the batch.

    The network stays in training mode, so the attack sees the statistics of the batch.
    """

    def __init__(self, model, x, y, classes, epsilon, step_size, steps):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = build_network(model, classes).to(self.device).train()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=0.1,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
        )
        images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
        self.x = images.to(self.device)
        self.y = torch.from_numpy(y).to(self.device)
        self.attack = {"epsilon": epsilon, "step_size": step_size, "steps": steps}

    def step(self):
        x_adv = perturb(self.network, self.x, self.y, **self.attack)
        loss = F.cross_entropy(self.network(x_adv), self.y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def describe(self):
        return {
            "framework": f"PyTorch {torch.__version__}",
            "device": "gpu" if self.device.type == "cuda" else "cpu",
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }
