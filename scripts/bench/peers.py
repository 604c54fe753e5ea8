# peers.py -- one training peer: builds it, then trains as many steps as each line on stdin says.
#
#   echo 20 | python peers.py --peer lsq-compiled --net cifar-resnet20 --roots '{"cifar": ..., "cache": ...}'
#
# Answers are lines of JSON: {"ready": ...} once, then {"ms": [...], "loss": [...], "peak_mib": ...} for each request.
#
# A peer's name says what it is: -bf16 under autocast, -compiled by torch.compile, -graphs by torch.compile with CUDA graphs.
# With --device cuda times are between events on the stream, nothing waits for a loss, and peak_mib is what PyTorch's
# allocator had given out, without the pictures; --warm-up steps at the start of each request are trained but not timed.
import argparse
import json
import os
import sys
import time

import torch

import images
import nets
from lsq import choose_steps

PEERS = ["float", "float-compiled", "bf16", "bf16-compiled", "bf16-graphs", "lsq", "lsq-compiled", "lsq-bf16",
         "lsq-bf16-compiled", "lsq-bf16-graphs", "lsq-native", "lsq-native-bf16", "qat-eager", "pt2e", "brevitas"]


def eager_qat(name, classes):
    from torch.ao import quantization as q
    net = nets.make(name, nets.EagerQat(), classes)
    net.train()
    q.fuse_modules_qat(net, [["conv1", "bn1", "act1"]], inplace=True)
    for block in net.blocks:
        q.fuse_modules_qat(block, [["conv1", "bn1", "act1"], ["conv2", "bn2"]], inplace=True)
        if block.down is not None:
            q.fuse_modules_qat(block.down, [["0", "1"]], inplace=True)
    engine = "x86" if "x86" in torch.backends.quantized.supported_engines else "fbgemm"
    torch.backends.quantized.engine = engine
    net.qconfig = q.get_default_qat_qconfig(engine)
    return q.prepare_qat(net.to(memory_format=torch.channels_last), inplace=True)


def pt2e(name, classes, example):
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    net = nets.make(name, nets.Float(), classes).to(memory_format=torch.channels_last).train()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    return prepare_qat_pt2e(torch.export.export(net, (example,), strict=True).module(), quantizer)


class Training:
    def __init__(self, peer, name, roots, rate, batch, device, warm_up):
        torch.manual_seed(1)
        ways = {"compiled", "graphs", "bf16"} & set(peer.split("-"))
        self.device, self.warm_up = torch.device(device), warm_up
        self.batches = images.batches(name, roots, batch)
        x, _ = next(self.batches)
        self.pictures = torch.cuda.memory_allocated() if self.device.type == "cuda" else 0
        classes = images.classes(name, roots)
        if peer == "qat-eager":
            net = eager_qat(name, classes)
        elif peer == "pt2e":
            net = pt2e(name, classes, x)
        else:
            kits = {"lsq": nets.Lsq(), "lsq-native": nets.Lsq(native=True), "brevitas": nets.Brevitas()}
            kit = kits.get("-".join(word for word in peer.split("-") if word not in ways), nets.Float())
            net = nets.make(name, kit, classes).to(memory_format=torch.channels_last).train()
        net = net.to(self.device)
        if peer.startswith("lsq"):
            choose_steps(net, x)
        self.parameters = list(net.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=rate, momentum=0.9, weight_decay=1e-4, fused=True)
        self.graphs = "graphs" in ways
        mode = {"mode": "reduce-overhead"} if self.graphs else {}
        self.net = torch.compile(net, **mode) if self.graphs or "compiled" in ways else net
        self.loss = torch.nn.CrossEntropyLoss()
        self.autocast = "bf16" in ways

    def step(self):
        """The loss, as a tensor on the device."""
        x, labels = next(self.batches)
        self.optimizer.zero_grad(set_to_none=True)
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.loss(self.net(x), labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach().clone()

    def run(self, steps):
        losses = [self.step().item() for _ in range(self.warm_up)]
        answer = self.run_on_gpu(steps) if self.device.type == "cuda" else self.run_on_cpu(steps)
        return {"ms": answer[0], "loss": losses + answer[1], "peak_mib": answer[2]}

    def run_on_cpu(self, steps):
        times, losses = [], []
        for _ in range(steps):
            began = time.perf_counter()
            losses.append(self.step().item())
            times.append(1e3 * (time.perf_counter() - began))
        return times, losses, peak_mib()

    def run_on_gpu(self, steps):
        marks, losses = [torch.cuda.Event(enable_timing=True)], []
        marks[0].record()
        for _ in range(steps):
            losses.append(self.step())
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        torch.cuda.synchronize()
        times = [a.elapsed_time(b) for a, b in zip(marks, marks[1:])]
        peak = (torch.cuda.max_memory_allocated() - self.pictures) / 2**20
        losses = [loss.item() for loss in losses]
        if not self.graphs:
            torch.cuda.empty_cache()  # the others' turn: a graph's memory has to stay where it is
        return times, losses, peak


def peak_mib():
    """Highest resident size. Not getrusage: ru_maxrss starts at the size of the process that started this one."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument("--net", choices=list(nets.NETS), required=True)
    parser.add_argument("--roots", type=json.loads, required=True)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, help="default: the network's own")
    parser.add_argument("--warm-up", type=int, default=0)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not mix with the answers
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True  # the fastest convolution for each shape
    training = Training(options.peer, options.net, options.roots, options.lr, options.batch or nets.NETS[options.net][4],
                        options.device, options.warm_up)
    print(json.dumps({"ready": True, "torch": torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(training.run(int(line))), file=answers, flush=True)
    os._exit(0)  # the loader's threads never end


if __name__ == "__main__":
    main()
