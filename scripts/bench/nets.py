# nets.py -- the networks as PyTorch modules, with the quantizers of each peer put where qattrain puts its own.
#
# A kit makes the parts: convolution, normalization, ReLU after a convolution, the end of a residual block, classifier.
import torch
from torch import nn


class Float:
    """No quantization. Activations are overwritten in place, as tuned PyTorch code does."""

    def conv(self, channels, out, kernel, stride, first=False):
        return nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)

    def relu(self):
        return nn.ReLU(inplace=True)

    def join(self):
        return AddRelu(nn.ReLU(inplace=True))

    def linear(self, channels, out):
        return nn.Linear(channels, out)

    def input(self):
        return nn.Identity()

    def output(self):
        return nn.Identity()


class AddRelu(nn.Module):
    def __init__(self, relu):
        super().__init__()
        self.relu = relu

    def forward(self, y, skip):
        return self.relu(y + skip)


class Lsq(Float):
    """Learned step sizes (Esser et al. 2020), 8 bits: weights per channel, activations after ReLU."""

    def __init__(self, native=False):
        self.native = native

    def conv(self, channels, out, kernel, stride, first=False):
        from lsq import LsqConv2d
        return LsqConv2d(channels, out, kernel, stride, kernel // 2, native=self.native)

    def relu(self):
        from lsq import Activation
        return nn.Sequential(nn.ReLU(inplace=True), Activation(native=self.native))

    def join(self):
        return AddRelu(self.relu())

    def linear(self, channels, out):
        from lsq import Activation, LsqLinear
        return nn.Sequential(Activation(native=self.native), LsqLinear(channels, out, native=self.native))


class EagerQat(Float):
    """torch.ao.quantization's eager mode."""

    def input(self):
        from torch.ao.quantization import QuantStub
        return QuantStub()

    def output(self):
        from torch.ao.quantization import DeQuantStub
        return DeQuantStub()

    def join(self):
        return FunctionalAddRelu()


class FunctionalAddRelu(nn.Module):
    def __init__(self):
        super().__init__()
        from torch.ao.nn.quantized import FloatFunctional
        self.sum = FloatFunctional()

    def forward(self, y, skip):
        return self.sum.add_relu(y, skip)


class Brevitas(Float):
    """8 bits, learned scales of activations, weights per channel."""

    def conv(self, channels, out, kernel, stride, first=False):
        from brevitas.nn import QuantConv2d
        from brevitas.quant import Int8WeightPerChannelFloat
        return QuantConv2d(channels, out, kernel, stride, kernel // 2, bias=False,
                           weight_quant=Int8WeightPerChannelFloat)

    def relu(self):
        from brevitas.nn import QuantReLU
        return QuantReLU(bit_width=8)

    def join(self):
        return AddRelu(self.relu())

    def linear(self, channels, out):
        from brevitas.nn import QuantLinear
        from brevitas.quant import Int8WeightPerChannelFloat
        return QuantLinear(channels, out, bias=True, weight_quant=Int8WeightPerChannelFloat)


class Block(nn.Module):
    def __init__(self, kit, channels, width, stride):
        super().__init__()
        self.conv1, self.bn1 = kit.conv(channels, width, 3, stride), nn.BatchNorm2d(width)
        self.act1 = kit.relu()
        self.conv2, self.bn2 = kit.conv(width, width, 3, 1), nn.BatchNorm2d(width)
        self.join = kit.join()
        self.down = None
        if stride != 1 or channels != width:
            self.down = nn.Sequential(kit.conv(channels, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.join(y, x if self.down is None else self.down(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride (v1.5), 1x1 to four times the width."""

    def __init__(self, kit, channels, width, stride):
        super().__init__()
        out = 4 * width
        self.conv1, self.bn1, self.act1 = kit.conv(channels, width, 1, 1), nn.BatchNorm2d(width), kit.relu()
        self.conv2, self.bn2, self.act2 = kit.conv(width, width, 3, stride), nn.BatchNorm2d(width), kit.relu()
        self.conv3, self.bn3 = kit.conv(width, out, 1, 1), nn.BatchNorm2d(out)
        self.join = kit.join()
        self.down = None
        if stride != 1 or channels != out:
            self.down = nn.Sequential(kit.conv(channels, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        y = self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))))
        return self.join(self.bn3(self.conv3(y)), x if self.down is None else self.down(x))


class ResNet(nn.Module):
    def __init__(self, kit, widths, depths, classes, imagenet_stem, block=Block):
        super().__init__()
        channels = widths[0]
        self.input = kit.input()
        self.conv1 = kit.conv(3, channels, 7 if imagenet_stem else 3, 2 if imagenet_stem else 1, first=True)
        self.bn1, self.act1 = nn.BatchNorm2d(channels), kit.relu()
        self.pool = nn.MaxPool2d(3, 2, 1) if imagenet_stem else nn.Identity()
        blocks = []
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            for i in range(depth):
                blocks.append(block(kit, channels, width, 2 if stage > 0 and i == 0 else 1))
                channels = width * (4 if block is Bottleneck else 1)
        self.blocks = nn.Sequential(*blocks)
        self.mean, self.fc, self.output = nn.AdaptiveAvgPool2d(1), kit.linear(channels, classes), kit.output()

    def forward(self, x):
        x = self.pool(self.act1(self.bn1(self.conv1(self.input(x)))))
        return self.output(self.fc(torch.flatten(self.mean(self.blocks(x)), 1)))


# name: (widths, depths, imagenet stem, picture side, batch)
NETS = {
    "cifar-resnet20": ([16, 32, 64], [3, 3, 3], False, 32, 128),
    "cifar-resnet18": ([64, 128, 256, 512], [2, 2, 2, 2], False, 32, 64),
    "imagenet-resnet18": ([64, 128, 256, 512], [2, 2, 2, 2], True, 224, 16),
    "imagenet-resnet50": ([64, 128, 256, 512], [3, 4, 6, 3], True, 224, 16),
}


def make(name, kit, classes):
    widths, depths, stem, _, _ = NETS[name]
    net = ResNet(kit, widths, depths, classes, stem, Bottleneck if name.endswith("resnet50") else Block)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
