"""The plain eager PyTorch side: the networks, the methods and a training step.

This is adversarial training as an ordinary PyTorch user writes it: modules of
`torch.nn`, a loop of gradient steps on the input, `optimizer.step()`. No compiler, no
channels-last memory, no custom kernels. Two choices are in PyTorch's favour, where
scripts that people share often do more work than they need: the attack asks autograd
for the gradient of the input alone, and nothing but the loss is read from the step.

The networks have the parameter counts of `keras_robustlt.networks`.
"""

import copy
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


class CosineHead(nn.Module):
    """RoBal's classifier: features and class vectors of unit length, or nearly so."""

    def __init__(self, features, classes, gamma=1 / 32):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.gamma = gamma

    def forward(self, features):
        lengths = self.weight.norm(dim=1, keepdim=True)
        return F.linear(F.normalize(features), self.weight / (lengths + self.gamma))


def build_network(name, classes, head="linear"):
    """Returns the network that `step.py --network` names."""
    if wide := re.fullmatch(r"wrn-(\d+)-(\d+)", name):
        network = WideResNet(int(wide[1]), int(wide[2]), classes)
    else:
        blocks = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}[name]
        network = ResNet(blocks, classes)
    if head == "cosine":
        network.classifier = CosineHead(network.classifier.in_features, classes)
    return network


def perturb(forward, x, y, epsilon, step_size, steps):
    """Returns the examples that PGD finds in the Linf ball around `x`."""
    start = x + torch.empty_like(x).uniform_(-epsilon, epsilon)
    x_adv = start.clamp(0, 1)
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.cross_entropy(forward(x_adv), y)
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = x_adv.detach() + step_size * gradient.sign()
        x_adv = torch.clamp(x_adv, x - epsilon, x + epsilon).clamp(0, 1)
    return x_adv.detach()


class BalancedSoftmax:
    """Cross-entropy of logits shifted by the class prior (AT-BSL)."""

    def __init__(self, class_counts):
        self.prior = class_counts.log()

    def __call__(self, logits, y):
        return F.cross_entropy(logits + self.prior, y)


class RoBal:
    """Cross-entropy with class-aware margins, and the divergence from clean images."""

    def __init__(
        self, class_counts, margin=0.1, scale=10.0, tau_b=1.5, tau_m=0.3, beta=6.0
    ):
        self.prior = tau_b * (class_counts / class_counts.sum()).log()
        self.margins = tau_m * (class_counts / class_counts.min()).log() / scale
        self.margins += margin
        self.scale, self.beta = scale, beta

    def __call__(self, logits, y, clean_logits):
        margins = F.one_hot(y, len(self.margins)) * self.margins
        margin_loss = F.cross_entropy(self.scale * (logits - margins) + self.prior, y)
        divergence = F.kl_div(
            F.log_softmax(logits, dim=1),
            F.softmax(clean_logits, dim=1),
            reduction="batchmean",
        )
        return margin_loss + self.beta * divergence


class WeightPerturbation:
    """AWP: moves the kernels to where the loss is worse, and back.

    A copy of the network takes a step of its own optimizer up the loss; each kernel
    then moves in the direction of the copy's change, by `gamma` times its length.
    """

    def __init__(self, network, gamma=0.005):
        self.network, self.gamma = network, gamma
        self.proxy = copy.deepcopy(network)
        self.optimizer = torch.optim.SGD(self.proxy.parameters(), lr=0.01)

    def changes(self, forward, x_adv, y):
        """A dictionary from the names of the kernels to their changes."""
        self.proxy.load_state_dict(self.network.state_dict())
        loss = -F.cross_entropy(forward(x_adv, self.proxy), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        before = dict(self.network.named_parameters())
        changes = {}
        for name, moved in self.proxy.named_parameters():
            if moved.dim() > 1:
                direction = moved.data - before[name].data
                size = self.gamma * before[name].data.norm()
                changes[name] = size / (direction.norm() + 1e-20) * direction
        return changes

    def move(self, changes, sign):
        for name, parameter in self.network.named_parameters():
            if name in changes:
                parameter.data.add_(changes[name], alpha=sign)


class Trainer:
    """A network, its optimizer and a fixed batch; `run` trains on the batch.

    The network stays in training mode, so the attack sees the statistics of the batch.

    Args:
        cell: A `sides.Cell`.
    """

    def __init__(self, cell):
        self.cell = cell
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        head = "cosine" if cell.method == "robal" else "linear"
        self.network = build_network(cell.network, cell.classes, head)
        self.network = self.network.to(self.device).train()
        self.optimizer = self.build_optimizer()
        x, y = cell.batch()
        images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
        self.x = images.to(self.device)
        self.y = torch.from_numpy(y).to(self.device)
        counts = torch.tensor(cell.class_counts(), dtype=torch.float32)
        counts = counts.to(self.device)
        losses = {"at_bsl": BalancedSoftmax, "robal": RoBal}
        loss = losses.get(cell.method)
        self.loss = loss(counts) if loss else F.cross_entropy
        self.awp = None
        if cell.method == "awp":
            self.awp = WeightPerturbation(self.network)
        self.attack = cell.attack

    def build_optimizer(self, **options):
        return torch.optim.SGD(
            self.network.parameters(),
            lr=0.1,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
            **options,
        )

    def forward(self, x, network=None):
        """Logits in float32, from a network that may compute in bfloat16."""
        half = self.cell.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return (self.network if network is None else network)(x).float()

    def run(self, steps):
        """Trains so many steps, and gives the loss."""
        for _ in range(steps):
            loss = self.step()
        return loss

    def step(self):
        x_adv = perturb(self.forward, self.x, self.y, **self.attack)
        if self.awp:
            changes = self.awp.changes(self.forward, x_adv, self.y)
            self.awp.move(changes, 1)
        loss = self.training_loss(x_adv)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.awp:
            self.awp.move(changes, -1)
        return loss.item()

    def training_loss(self, x_adv):
        logits = self.forward(x_adv)
        if self.cell.method == "robal":
            return self.loss(logits, self.y, self.forward(self.x))
        return self.loss(logits, self.y)

    def device_peak(self):
        """Peak memory of the accelerator in bytes; `None` on a CPU."""
        if self.device.type == "cpu":
            return None
        return torch.cuda.max_memory_allocated()

    def describe(self):
        return {
            "framework": f"PyTorch {torch.__version__}",
            "device": "gpu" if self.device.type == "cuda" else "cpu",
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }
