# lsq.py -- LSQ in PyTorch: an autograd function, or PyTorch's own learnable fake quantization (native=True).
import math

import torch
from torch import nn
from torch.nn import functional as F


class RoundToStep(torch.autograd.Function):
    """clamp(round(x / step), lo, hi) * step; the step's gradient is eq. 3 of Esser et al. 2020, times `scale`."""

    @staticmethod
    def forward(ctx, x, step, lo, hi, scale):
        ctx.save_for_backward(x, step)
        ctx.lo, ctx.hi, ctx.scale = lo, hi, scale
        return torch.round(x / step).clamp_(lo, hi).mul_(step)

    @staticmethod
    def backward(ctx, dout):
        x, step = ctx.saved_tensors
        v = x / step
        inside = (v > ctx.lo) & (v < ctx.hi)
        slope = torch.where(inside, torch.round(v) - v, v.clamp(ctx.lo, ctx.hi)) * dout
        if step.numel() == 1:
            dstep = slope.sum().reshape(step.shape)
        else:
            dstep = slope.sum(dim=tuple(range(1, slope.dim())), keepdim=True)
        return dout * inside, dstep * ctx.scale, None, None, None


def rounded(x, step, lo, hi, scale, native):
    if not native:
        return RoundToStep.apply(x, step, lo, hi, scale)
    zero = torch.zeros(step.numel(), device=step.device)
    x = x.float()  # under autocast: the kernels know no bf16
    if step.numel() == 1:
        return torch._fake_quantize_learnable_per_tensor_affine(x, step, zero, int(lo), int(hi), scale)
    return torch._fake_quantize_learnable_per_channel_affine(x, step.flatten(), zero, 0, int(lo), int(hi), scale)


class Activation(nn.Module):
    """Codes 0..127 of what ReLU emits; the first batch chooses the step."""

    def __init__(self, native=False):
        super().__init__()
        self.native = native
        self.step = nn.Parameter(torch.ones(1))
        self.chosen = False

    def forward(self, x):
        if not self.chosen:
            with torch.no_grad():
                self.step.copy_(2 * x.abs().mean().float() / math.sqrt(127) + 1e-9)
            self.chosen = True
        scale = 1 / math.sqrt(x[0].numel() * 127)
        return rounded(x, self.step, 0.0, 127.0, scale, self.native)


def weight_step(w):
    dims = tuple(range(1, w.dim()))
    return nn.Parameter(2 * w.detach().abs().mean(dim=dims, keepdim=True) / math.sqrt(127))


class LsqConv2d(nn.Conv2d):
    def __init__(self, channels, out, kernel, stride, padding, native):
        super().__init__(channels, out, kernel, stride, padding, bias=False)
        self.native = native
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.step = weight_step(self.weight)

    def forward(self, x):
        scale = 1 / math.sqrt(self.weight[0].numel() * 127)
        w = rounded(self.weight, self.step, -127.0, 127.0, scale, self.native)
        return F.conv2d(x, w, None, self.stride, self.padding)


class LsqLinear(nn.Linear):
    def __init__(self, channels, out, native):
        super().__init__(channels, out)
        self.native = native
        self.step = weight_step(self.weight)

    def forward(self, x):
        scale = 1 / math.sqrt(self.weight[0].numel() * 127)
        return F.linear(x, rounded(self.weight, self.step, -127.0, 127.0, scale, self.native), self.bias)


def choose_steps(net, images):
    """Runs one batch, so that no step is chosen within a compiled forward pass."""
    with torch.no_grad():
        net(images)
