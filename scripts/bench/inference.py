# inference.py -- one inference peer: builds and calibrates it, then runs as many batches as each line on stdin says.
#
#   echo 10 | python inference.py --peer onnxruntime-int8 --net cifar-resnet20 --roots '{...}' --work FOLDER
#
# Answers are lines of JSON: {"ready": ...} once, then {"ms": [...], "peak_mib": ...} for each request. Batches are made
# before the clock starts: what is timed is the network. The networks have seen 20 training steps: speed does not
# depend on weights, but calibration wants statistics that are not constant.
import argparse
import itertools
import json
import os
import sys
import time

import torch

import images
import nets
from peers import peak_mib

PEERS = ["onnxruntime-int8", "onnxruntime-float", "pytorch-int8", "pytorch-float"]


def trained(name, batches, kit):
    net = nets.make(name, kit, images.classes(name)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for x, labels in itertools.islice(batches, 20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    return net.eval()


def pytorch_int8(name, batches):
    """Post-training, eager mode, fused: the arithmetic of a converted QAT network."""
    from torch.ao import quantization as q
    engine = "x86" if "x86" in torch.backends.quantized.supported_engines else "fbgemm"
    torch.backends.quantized.engine = engine
    net = trained(name, batches, nets.EagerQat())
    q.fuse_modules(net, [["conv1", "bn1", "act1"]], inplace=True)
    for block in net.blocks:
        q.fuse_modules(block, [["conv1", "bn1", "act1"], ["conv2", "bn2"]], inplace=True)
        if block.down is not None:
            q.fuse_modules(block.down, [["0", "1"]], inplace=True)
    net.qconfig = q.get_default_qconfig(engine)
    q.prepare(net, inplace=True)
    with torch.no_grad():
        for x, _ in itertools.islice(batches, 4):
            net(x)
    return q.convert(net, inplace=True)


def export(net, x, path):
    with torch.no_grad():
        torch.onnx.export(net, (x.contiguous(),), path, input_names=["x"], output_names=["y"], opset_version=17,
                          dynamo=False)


def onnxruntime_session(name, batches, work, threads, int8):
    import onnxruntime
    path = os.path.join(work, f"{name}.onnx")
    x, _ = next(batches)
    export(trained(name, batches, nets.Float()), x, path)
    if int8:
        from onnxruntime import quantization as q
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(q.CalibrationDataReader):
            def __init__(self):
                self.left = itertools.islice(batches, 4)

            def get_next(self):
                x = next(self.left, None)
                return None if x is None else {"x": x[0].contiguous().numpy()}

        quant_pre_process(path, path + ".prepared", skip_symbolic_shape=True)
        q.quantize_static(path + ".prepared", path + ".int8", Reader(), quant_format=q.QuantFormat.QDQ,
                          activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8, per_channel=True,
                          reduce_range=not vnni())
        path += ".int8"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"x": batch})


def vnni():
    """Without it ONNX Runtime's documentation asks for weights of 7 bits on AVX2 (saturation); speed is the same."""
    with open("/proc/cpuinfo") as file:
        return "vnni" in file.read()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument("--net", choices=list(nets.NETS), required=True)
    parser.add_argument("--roots", type=json.loads, required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    batches = images.batches(options.net, options.roots, nets.NETS[options.net][4])
    if options.peer.startswith("onnxruntime"):
        run = onnxruntime_session(options.net, batches, options.work, options.threads, options.peer.endswith("int8"))
    elif options.peer == "pytorch-int8":
        run = pytorch_int8(options.net, batches)
    else:
        run = trained(options.net, batches, nets.Float())
    ready = [x for x, _ in itertools.islice(batches, 4)]
    if options.peer.startswith("onnxruntime"):
        ready = [x.contiguous().numpy() for x in ready]
    print(json.dumps({"ready": True}), file=answers, flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            times = []
            for i in range(int(line)):
                began = time.perf_counter()
                run(ready[i % len(ready)])
                times.append(1e3 * (time.perf_counter() - began))
            print(json.dumps({"ms": times, "loss": [], "peak_mib": peak_mib()}), file=answers, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
