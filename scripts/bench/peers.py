# peers.py -- one training peer: builds it, then trains as many steps as each line on stdin says.
#
#   echo 20 | python peers.py --peer lsq-compiled --net cifar-resnet20 --roots '{"cifar": ..., "cache": ...}'
#
# Answers are lines of JSON: {"ready": ...} once, then {"ms": [...], "loss": [...], "peak_mib": ...} for each request.
import argparse
import json
import os
import sys
import time

import torch

import images
import nets
from lsq import choose_steps

PEERS = ["float", "float-compiled", "bf16", "lsq", "lsq-compiled", "lsq-bf16", "lsq-native", "qat-eager", "pt2e",
         "brevitas"]


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
    def __init__(self, peer, name, roots, rate):
        torch.manual_seed(1)
        batch = nets.NETS[name][4]
        self.batches = images.batches(name, roots, batch)
        x, _ = next(self.batches)
        classes = images.classes(name)
        if peer == "qat-eager":
            net = eager_qat(name, classes)
        elif peer == "pt2e":
            net = pt2e(name, classes, x)
        else:
            kit = {"lsq": nets.Lsq(), "lsq-native": nets.Lsq(native=True), "brevitas": nets.Brevitas()}.get(
                peer.replace("-compiled", "").replace("-bf16", ""), nets.Float())
            net = nets.make(name, kit, classes).to(memory_format=torch.channels_last).train()
        if peer.startswith("lsq"):
            choose_steps(net, x)
        self.parameters = list(net.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=rate, momentum=0.9, weight_decay=1e-4, fused=True)
        self.net = torch.compile(net) if peer.endswith("compiled") else net
        self.loss = torch.nn.CrossEntropyLoss()
        self.autocast = peer.endswith("bf16")

    def step(self):
        began = time.perf_counter()
        x, labels = next(self.batches)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.loss(self.net(x), labels)
        loss.backward()
        self.optimizer.step()
        value = loss.item()
        return 1e3 * (time.perf_counter() - began), value


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
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not mix with the answers
    torch.set_num_threads(options.threads)
    training = Training(options.peer, options.net, options.roots, options.lr)
    print(json.dumps({"ready": True, "torch": torch.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        results = [training.step() for _ in range(int(line))]
        print(json.dumps({"ms": [r[0] for r in results], "loss": [r[1] for r in results], "peak_mib": peak_mib()}),
              file=answers, flush=True)
    os._exit(0)  # the loader's threads never end


if __name__ == "__main__":
    main()
