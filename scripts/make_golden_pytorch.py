#!/usr/bin/env python3
"""make_golden_pytorch.py -- writes tests/golden/{ops,lsq,resnet20,qat}.safetensors: what PyTorch computes.

usage: scripts/make_golden_pytorch.py [FOLDER [NAME...]]     (needs torch and numpy; NAME: ops, lsq, resnet20, qat; all)

Everything is computed in double from f32 inputs and stored as f32, in our layouts: images NHWC, convolution weights
KRSC. tests/golden/README.md lists the tensors. The tests only read the files; PyTorch is not needed to run them.
"""
import json
import struct
import sys

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)


def numbers(shape, seed):
    """Numbers in [-1, 1] made from seed and position: weights_for of core/autograd/gradcheck.cpp, bit for bit."""
    with np.errstate(over="ignore"):
        z = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.uint64(seed) * np.uint64(0xD1342543DE82EF95)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    u = (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    return u.reshape(shape)


def scaled(shape, seed, factor):
    return numbers(shape, seed) * np.float32(factor)


def double(array, grad=False):
    return torch.tensor(np.asarray(array), dtype=torch.float64, requires_grad=grad)


def image(x):  # NHWC <-> NCHW
    return x.permute(0, 3, 1, 2)


def ours(x):
    return x.permute(0, 2, 3, 1)


def write(path, tensors, metadata):
    header, data, offset = {"__metadata__": metadata}, [], 0
    for name, t in sorted(tensors.items(), key=lambda item: item[1].dtype != np.int64):
        kind = {"float32": "F32", "int64": "I64"}[str(t.dtype)]
        header[name] = {"dtype": kind, "shape": list(t.shape), "data_offsets": [offset, offset + t.nbytes]}
        data.append(np.ascontiguousarray(t).tobytes())
        offset += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(data))
    print(f"{path}: {8 + len(text) + offset} bytes, {len(tensors)} tensors")


def f32(t):
    return t.detach().numpy().astype(np.float32)


CONVOLUTIONS = [  # n, h, w, c, k, kernel, stride, padding, dilation, groups
    (2, 6, 5, 3, 4, 3, 1, 1, 1, 1),
    (1, 7, 8, 4, 6, 3, 2, 1, 1, 1),
    (1, 5, 5, 5, 3, 1, 2, 0, 1, 1),
    (1, 7, 7, 4, 4, 3, 1, 2, 2, 1),
    (1, 6, 6, 6, 4, 3, 1, 1, 1, 2),
    (1, 6, 6, 4, 8, 3, 2, 1, 1, 4),
]


def convolutions(out):
    for i, (n, h, w, c, k, r, stride, padding, dilation, groups) in enumerate(CONVOLUTIONS):
        x = double(numbers((n, h, w, c), 10 * i + 1), True)
        weight = double(numbers((k, r, r, c // groups), 10 * i + 2), True)
        y = ours(F.conv2d(image(x), image(weight), None, stride, padding, dilation, groups))
        dy = double(numbers(tuple(y.shape), 10 * i + 3))
        y.backward(dy)
        out[f"conv{i}.options"] = np.array([stride, padding, dilation, groups], dtype=np.int64)
        for name, t in {"x": x, "w": weight, "y": y, "dy": dy, "dx": x.grad, "dw": weight.grad}.items():
            out[f"conv{i}.{name}"] = f32(t)


def batch_norms(out):
    for mode in ("training", "evaluation"):
        x = double(scaled((3, 4, 5, 7), 101, 2) + np.float32(1), True)
        gamma, beta = double(numbers((7,), 102), True), double(numbers((7,), 103), True)
        mean, var = double(scaled((7,), 104, 0.5)), double(scaled((7,), 105, 0.5) + np.float32(1))
        out[f"batch_norm_{mode}.running_mean"], out[f"batch_norm_{mode}.running_var"] = f32(mean), f32(var)
        y = ours(F.batch_norm(image(x), mean, var, gamma, beta, mode == "training", 0.1, 1e-5))
        dy = double(numbers(tuple(y.shape), 106))
        y.backward(dy)
        for name, t in {"x": x, "gamma": gamma, "beta": beta, "y": y, "dy": dy, "dx": x.grad, "dgamma": gamma.grad,
                        "dbeta": beta.grad, "new_running_mean": mean, "new_running_var": var}.items():
            out[f"batch_norm_{mode}.{name}"] = f32(t)


def cross_entropies(out):
    for i, smoothing in enumerate((0.0, 0.1)):
        x = double(scaled((5, 11), 201 + i, 4), True)
        labels = torch.tensor([0, 10, 3, 3, 7])
        loss = F.cross_entropy(x, labels, label_smoothing=smoothing)
        loss.backward()
        out[f"cross_entropy{i}.labels"] = labels.numpy().astype(np.int64)
        for name, t in {"x": x, "loss": loss.reshape(1), "dx": x.grad,
                        "smoothing": torch.tensor([smoothing])}.items():
            out[f"cross_entropy{i}.{name}"] = f32(t)


def pools(out):
    x = double(numbers((2, 7, 6, 5), 301), True)
    for name, pool in {"max_pool": lambda t: F.max_pool2d(t, 3, 2, 1), "average_pool": lambda t: F.avg_pool2d(t, 3, 2, 1),
                       "global_average_pool": lambda t: F.adaptive_avg_pool2d(t, 1)}.items():
        x.grad = None
        y = ours(pool(image(x)))
        dy = double(numbers(tuple(y.shape), 302))
        y.backward(dy)
        for key, t in {"x": x, "y": y, "dy": dy, "dx": x.grad}.items():
            out[f"{name}.{key}"] = f32(t)


class Lsq(torch.autograd.Function):
    """Learned step size quantization (Esser et al., ICLR 2020), equations 1 to 3 and section 2.2."""

    @staticmethod
    def forward(context, x, step, lo, hi, count):
        context.save_for_backward(x, step)
        context.constants = lo, hi, count
        return torch.clamp(torch.round(x / step), lo, hi) * step

    @staticmethod
    def backward(context, dy):
        x, step = context.saved_tensors
        lo, hi, count = context.constants
        v = x / step
        inside = (v > lo) & (v < hi)
        ds = torch.where(inside, torch.round(v) - v, torch.clamp(v, lo, hi)) * dy
        over = [d for d in range(x.dim()) if step.dim() != x.dim() or step.shape[d] == 1]
        return dy * inside, ds.sum(over, keepdim=True).reshape(step.shape) / (count * hi) ** 0.5, None, None, None


def lsq(out):
    cases = {  # shape, step's shape, lo, hi, N
        "weights_4bit": ((6, 3, 3, 4), (6, 1, 1, 1), -7, 7, 36),
        "weights_2bit": ((6, 3, 3, 4), (6, 1, 1, 1), -1, 1, 36),
        "weights_8bit": ((6, 3, 3, 4), (6, 1, 1, 1), -127, 127, 36),
        "weights_4bit_one_step": ((6, 3, 3, 4), (1,), -7, 7, 216),
        "activations_4bit": ((3, 4, 4, 5), (1,), 0, 15, 80),
        "activations_2bit": ((3, 4, 4, 5), (1,), 0, 3, 80),
        "activations_8bit": ((3, 4, 4, 5), (1,), 0, 127, 80),
    }
    for i, (name, (shape, step_shape, lo, hi, count)) in enumerate(cases.items()):
        x = double(numbers(shape, 400 + i), True)
        step = numbers(step_shape, 450 + i) * np.float32(0.2) + np.float32(0.8)  # clips a part on either side
        step = double((step / np.float32(hi)).astype(np.float32), True)
        y = Lsq.apply(x, step, lo, hi, count)
        dy = double(numbers(shape, 480 + i))
        y.backward(dy)
        out[f"{name}.range"] = np.array([lo, hi], dtype=np.int64)
        codes = torch.round(y / step)
        for key, t in {"x": x, "step": step.reshape(-1), "codes": codes, "dy": dy, "dx": x.grad,
                       "dstep": step.grad.reshape(-1)}.items():
            out[f"{name}.{key}"] = f32(t)


class Block(torch.nn.Module):
    def __init__(self, c, k, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(k)
        self.conv2 = torch.nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(k)
        self.downsample = torch.nn.Sequential()
        if stride != 1 or c != k:
            self.downsample = torch.nn.Sequential(torch.nn.Conv2d(c, k, 1, stride, bias=False),
                                                  torch.nn.BatchNorm2d(k))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.downsample(x))


class ResNet20(torch.nn.Module):
    """He et al. 2016, section 4.2, with projection shortcuts."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(16)
        self.layer1 = torch.nn.Sequential(*[Block(16, 16, 1) for _ in range(3)])
        self.layer2 = torch.nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = torch.nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.fc = torch.nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


WHOLE = ("conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight",
         "layer2.0.downsample.1.weight", "layer3.2.bn2.weight", "fc.weight", "fc.bias")


def krsc(t):
    return ours(t) if t.dim() == 4 else t


def first_values():
    """In PyTorch's order; convolutions KRSC."""
    values = {}
    for i, (name, p) in enumerate(ResNet20().named_parameters()):
        shape = tuple(krsc(p).shape)
        if p.dim() == 1:  # norms and the bias: around 1 and 0
            values[name] = scaled(shape, i, 0.25) + np.float32(1 if name.endswith("weight") else 0)
        else:
            values[name] = scaled(shape, i, np.sqrt(6 / np.prod(shape[1:])))
    return values


def probed(out, prefix, i, t):
    """The dot product with a fixed random tensor, and the norm."""
    probe = double(numbers(tuple(t.shape), 2000 + i))
    out[prefix] = f32(torch.stack([(t * probe).sum(), t.norm()]))


def resnet20(out):
    net = ResNet20().train()
    first = first_values()
    decayed, others = [], []
    for name, p in net.named_parameters():
        value = double(first[name])
        p.data = value if p.dim() != 4 else image(value).contiguous()
        (decayed if p.dim() > 1 else others).append(p)
    pixels = ((numbers((4, 32, 32, 3), 1000) + np.float32(1)) * np.float32(127.5)).astype(np.int64)
    labels = torch.tensor([3, 0, 9, 3])
    x = image((double(pixels) / 255 - 0.5) / 0.25)
    sgd = torch.optim.SGD([{"params": decayed, "weight_decay": 1e-4}, {"params": others}], lr=0.1, momentum=0.9)
    out["labels"] = labels.numpy().astype(np.int64)
    for step in range(2):
        sgd.zero_grad()
        logits = net(x)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        out[f"step{step}.loss"], out[f"step{step}.logits"] = f32(loss.reshape(1)), f32(logits)
        gradients = {name: krsc(p.grad) for name, p in net.named_parameters()}
        sgd.step()
        weights = {name: krsc(p.data) for name, p in net.named_parameters()}
        for what, tensors in {"gradient": gradients, "weight": weights}.items():
            for i, (name, t) in enumerate(tensors.items()):
                probed(out, f"step{step}.{what}_probe.{name}", i, t)
                if name in WHOLE and step == 0:
                    out[f"step{step}.{what}.{name}"] = f32(t)
        for name, b in net.named_buffers():
            if "running" in name and step == 0:
                out[f"step{step}.buffer.{name}"] = f32(b)


def sixteen_bits(x):
    """f32 with 16 significant bits, ties to even."""
    bits = int(np.float32(x).view(np.uint32))
    return float(np.uint32((bits + 0x7F + (bits >> 8 & 1)) & ~0xFF).view(np.float32))


class QatResNet20:
    """ResNet-20 whose every tensor between layers is codes times a step: numerics.md in reals.

    Weights and what units emit are rounded (Lsq); what an addition reads of its residual has the ratio of steps that the
    integer program has (16 significant bits), and the gradient of the value itself. Steps that are not there yet are
    chosen from the first values they meet, so that about one in fifty is clipped.
    """

    def __init__(self, weight_bits, activation_bits, residual, per_channel, full_range, per_batch):
        self.weight_bits, self.activation_bits, self.residual = weight_bits, activation_bits, residual
        self.per_channel, self.full_range, self.per_batch = per_channel, full_range, per_batch
        self.parameters = {name: double(value, True) for name, value in first_values().items()}
        self.steps, self.statistics, self.margin = {}, {}, 1.0

    def step_for(self, name, values, hi):
        if name not in self.steps:
            step = np.float32(np.quantile(values.detach().abs().numpy(), 0.98) / (hi - 0.3))
            self.steps[name] = double(np.array([step], dtype=np.float32), True)
        return self.steps[name]

    @staticmethod
    def margin_of(x, step, lo, hi):
        """How close a number comes to where its code or its gradient is another one, in steps."""
        v = (x / step).detach()
        reached = v[(v > lo - 1) & (v < hi + 1)]
        return min(float((reached - torch.floor(reached) - 0.5).abs().min()),
                   *(float((v - end).abs()[v != 0].min()) for end in (lo, hi)))

    def weights(self, name, bits):
        w = self.parameters[name + ".weight"]
        hi = 2 ** (bits - 1) - 1
        lo = -hi - 1 if self.full_range else -hi
        key = name + ".weight_quant.scale"
        if key not in self.steps:
            channels = w.detach().reshape(w.shape[0] if self.per_channel else 1, -1)
            steps = (2 * channels.abs().mean(1).numpy() / hi ** 0.5).astype(np.float32)
            for i, channel in enumerate(channels):
                while self.margin_of(channel, float(steps[i]), lo, hi) < 1e-6:
                    steps[i] *= np.float32(1.001)
            self.steps[key] = double(steps, True)
        step = self.steps[key]
        count = w.numel() / step.numel()
        return Lsq.apply(w, step.reshape([-1] + [1] * (w.dim() - 1)), lo, hi, count)

    def activations(self, name, x, signed):
        bits = 8 if name == "avgpool" else self.activation_bits
        hi = 2 ** (bits - 1) - 1 if signed else 127 if bits == 8 else 2 ** bits - 1
        lo = -hi - self.full_range if signed else 0
        step = self.step_for(name + ".act_quant.scale", x, hi)
        self.margin = min(self.margin, self.margin_of(x, step, lo, hi))
        return Lsq.apply(x, step, lo, hi, x.numel() if self.per_batch else x[0].numel())

    def residual_read(self, x, source, target):
        ratio = sixteen_bits(np.float32(self.steps[source + ".act_quant.scale"].item() /
                                        self.steps[target + ".act_quant.scale"].item()))
        codes = torch.round(x.detach() / self.steps[source + ".act_quant.scale"].detach())
        value = codes * ratio * self.steps[target + ".act_quant.scale"].detach()
        return x + (value - x).detach()

    def unit(self, conv, norm, x, stride=1, relu=True, added=None, bits=None):
        """added: values and the name of whoever emitted them."""
        w = self.weights(conv, bits or self.weight_bits)
        y = F.conv2d(x, image(w), None, stride, w.shape[1] // 2)
        mean, var = torch.zeros(y.shape[1]), torch.ones(y.shape[1])
        y = F.batch_norm(y, mean, var, self.parameters[norm + ".weight"], self.parameters[norm + ".bias"], True, 0.1, 1e-5)
        self.statistics[norm + ".running_mean"], self.statistics[norm + ".running_var"] = mean, var
        if added:
            values, source = added
            if conv + ".act_quant.scale" not in self.steps:
                self.step_for(conv + ".act_quant.scale", F.relu(y + values), 2 ** self.activation_bits - 1)
            y = y + self.residual_read(values, source, conv)
        return self.activations(conv, F.relu(y) if relu else y, not relu)

    def block(self, name, x, source, stride, widens):
        added = (x, source)
        if widens:
            shortcut = self.unit(name + ".downsample.0", name + ".downsample.1", x, stride, relu=False)
            added = (shortcut, name + ".downsample.0")
        y = self.unit(name + ".conv1", name + ".bn1", x, stride)
        last = name + ".conv2"
        if self.residual == "identity":
            return self.unit(last, name + ".bn2", y, added=added), last
        y = self.unit(last, name + ".bn2", y, relu=False)
        if last + ".add.act_quant.scale" not in self.steps:
            self.step_for(last + ".add.act_quant.scale", F.relu(y + added[0]), 127)
        total = F.relu(y + self.residual_read(*added, last + ".add"))
        return self.activations(last + ".add", total, False), last + ".add"

    def __call__(self, pixels):
        table = ((np.arange(256) / 255 - 0.5) / 0.25).astype(np.float32)
        step = np.abs(table).max() / np.float32(127)
        codes = np.clip(np.rint(table / step), -127, 127)
        x = image(double(codes[pixels] * float(step)))
        x, source = self.unit("conv1", "bn1", x, bits=8), "conv1"
        for stage in (1, 2, 3):
            for i in range(3):
                first = stage > 1 and i == 0
                x, source = self.block(f"layer{stage}.{i}", x, source, 2 if first else 1, first)
        x = self.activations("avgpool", x.mean((2, 3)), False)
        return x @ self.weights("fc", 8).T + self.parameters["fc.bias"]


QAT_CASES = {
    "w4a4": dict(weight_bits=4, activation_bits=4, residual="identity", per_channel=True, full_range=False, per_batch=False),
    "w3a8_both": dict(weight_bits=3, activation_bits=8, residual="both", per_channel=False, full_range=True,
                      per_batch=True),
}


def qat(out):
    """One training step on four pictures of 8x8: learning rate 0.1, weight decay 0.05 on weights; no step falls below its
    floor, nine tenths of its least number."""
    labels = torch.tensor([3, 0, 9, 3])
    out["labels"] = labels.numpy().astype(np.int64)
    for case, options in QAT_CASES.items():
        # Pictures for which no number is within 2e-5 steps of where f32 could decide otherwise.
        for seed in range(1000, 2000):
            pixels = ((numbers((4, 8, 8, 3), seed) + np.float32(1)) * np.float32(127.5)).astype(np.int64)
            net = QatResNet20(**options)
            logits = net(pixels)
            if net.margin > 2e-5:
                break
        else:
            sys.exit(f"{case}: no pictures found")
        print(f"{case}: pictures of seed {seed}, margin {net.margin:.2g}")
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        loss.backward()
        out[f"{case}.seed"] = np.array([seed], dtype=np.int64)
        out[f"{case}.loss"], out[f"{case}.logits"] = f32(loss.reshape(1)), f32(logits)
        for name, t in net.statistics.items():
            out[f"{case}.buffer.{name}"] = f32(t)
        for i, (name, t) in enumerate([*net.parameters.items(), *net.steps.items()]):
            new = t.detach() - 0.1 * (t.grad + (0.05 * t.detach() if t.dim() > 1 else 0))
            if name in net.steps:
                floor = double(f32(0.9 * t.min().reshape(1)))
                new = torch.maximum(new, floor)
                out[f"{case}.floor.{name}"] = f32(floor)
                out[f"{case}.step.{name}"], out[f"{case}.gradient.{name}"] = f32(t), f32(t.grad)
                out[f"{case}.new.{name}"] = f32(new)
                continue
            probed(out, f"{case}.gradient_probe.{name}", i, t.grad)
            probed(out, f"{case}.new_probe.{name}", i, new)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "tests/golden"
    about = {"made_by": "scripts/make_golden_pytorch.py", "torch": torch.__version__}
    all_makers = {"ops": (convolutions, batch_norms, cross_entropies, pools), "lsq": (lsq,), "resnet20": (resnet20,),
                  "qat": (qat,)}
    for name in sys.argv[2:] or all_makers:
        makers = all_makers[name]
        tensors = {}
        for make in makers:
            make(tensors)
        write(f"{folder}/{name}.safetensors", tensors, about)


if __name__ == "__main__":
    main()
