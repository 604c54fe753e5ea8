# contestants.py -- what compare.py lets run against each other: PyTorch and ONNX Runtime processes, and qattrain itself.
#
# A contestant answers run(steps) with {"ms": per step, "loss": per step, "peak_mib": ...} and has `cpu_seconds()`, what it
# and its children have used so far. `first` is the answer to its first steps, of which the losses are shown.
import atexit
import glob
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(HERE))
TICKS = os.sysconf("SC_CLK_TCK")
BATCH = {"cifar-resnet20": 128, "cifar-resnet18": 64, "imagenet-resnet18": 16}
LEARNING_RATE = {"cifar-resnet20": 0.02, "cifar-resnet18": 0.02, "imagenet-resnet18": 0.01, "imagenet-resnet50": 0.01}


STARTED = []


def start(command, **options):
    STARTED.append(subprocess.Popen(command, **options))
    return STARTED[-1]


@atexit.register
def end_all():
    """Nothing goes on working when the comparison ends early."""
    for process in STARTED:
        if process.returncode is None and process.poll() is None:
            process.kill()


def jemalloc():
    return next(iter(glob.glob("/usr/lib/*/libjemalloc.so.2") + glob.glob("/usr/lib64/libjemalloc.so.2")), None)


def tree_cpu_seconds(pid):
    """User and system time of a process, of its children that live, and of those that it has waited for."""
    total, pending = 0.0, [pid]
    while pending:
        at = pending.pop()
        try:
            with open(f"/proc/{at}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            with open(f"/proc/{at}/task/{at}/children") as file:
                pending += [int(child) for child in file.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(field) for field in fields[11:15]) / TICKS
    return total


class HighestSize:
    """Looks at a process's highest resident size until it ends, twenty times a second."""

    def __init__(self, pid):
        self.path, self.mib, self.ended = f"/proc/{pid}/status", 0.0, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        while not self.ended.wait(0.05):
            try:
                with open(self.path) as file:
                    self.mib = next((int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:")), self.mib)
            except (FileNotFoundError, ProcessLookupError):
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


class Peer:
    """A Python process that lives as long as the comparison and works only when asked."""

    BATCHES = BATCH
    FIRST = 20  # steps whose losses are shown
    ARGUMENTS = []  # more for peers.py

    def __init__(self, name, net, options, script):
        self.name, self.net, self.batch = name, net, self.BATCHES[net]
        environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads), PYTHONUNBUFFERED="1")
        self.allocator = jemalloc()
        if self.allocator:
            environment["LD_PRELOAD"] = self.allocator
            environment["MALLOC_CONF"] = ("oversize_threshold:1,background_thread:true,metadata_thp:auto,"
                                          "dirty_decay_ms:9000000000,muzzy_decay_ms:9000000000")
        command = [sys.executable, os.path.join(HERE, script), "--peer", name, "--net", net, "--threads",
                   str(options.threads), "--roots", json.dumps(options.roots)]
        command += ["--work", options.work] if script == "inference.py" else ["--lr", str(LEARNING_RATE[net])]
        command += self.ARGUMENTS
        self.log = os.path.join(options.work, f"{name}-{net}.log")
        self.process = start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(self.log, "w"),
                             text=True, env=environment, cwd=HERE)
        self.answer()
        self.first = self.run(self.FIRST if script == "peers.py" else 2)

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            with open(self.log) as file:
                cause = file.read().strip().splitlines()[-1:] or ["no output"]
            raise RuntimeError(f"{self.name} on {self.net} ended: {cause[0]} (all of it: {self.log})")
        return json.loads(line)

    def run(self, steps):
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self.answer()

    def cpu_seconds(self):
        return tree_cpu_seconds(self.process.pid)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def our_config(net, options):
    """The config file and the keys for one network; the data are those of the peers."""
    if net == "cifar-resnet20":
        return "configs/cifar10_resnet20_w8a8.yaml", []
    if net == "cifar-resnet18":
        return "configs/cifar10_resnet18_int8.yaml", ["train.batch=64"]
    return "configs/cifar10_resnet18_int8.yaml", [
        "train.batch=16", "model.stem=imagenet", f"data.path={options.roots['imagenet']}", "data.image_size=224",
        "data.augmentation.crop=random_resized", "data.mean=[0.485,0.456,0.406]", "data.std=[0.229,0.224,0.225]"]


class Ours:
    """A fresh qattrain process each time; its first steps (plans, first touch of memory) are not in the answer."""
    BATCHES = BATCH
    WARM_UP = 5
    EVERY = 1  # steps that a line of metrics.jsonl sums up

    def __init__(self, phase, net, options):
        self.name, self.net, self.batch = f"qattrain {phase}", net, self.BATCHES[net]
        self.phase, self.options, self.used = phase, options, 0.0
        self.first = self.run(20 - self.WARM_UP)
        self.first["loss"] = self.losses

    def config(self):
        return our_config(self.net, self.options)

    def command(self, folder, name):
        config, keys = self.config()
        other = "qat" if self.phase == "float" else "float"
        return [self.options.binary, os.path.join(REPOSITORY, config), *keys, f"train.{other}.epochs=0",
                f"train.{self.phase}.epochs=1000", f"train.{self.phase}.lr={LEARNING_RATE[self.net]}",
                f"train.threads={self.options.threads}", "train.optimizer.weight_decay=1e-4", "train.qat.weight_decay=1e-4",
                f"log.every={self.EVERY}", "log.histograms_every=0", "eval.every_epochs=0", "checkpoint.every_epochs=0", "--run-dir", folder, "--name", name, "--no-progress", "--quiet"]

    def run(self, steps):
        folder = os.path.join(self.options.work, "runs")
        name = f"{self.net}-{self.phase}-{os.getpid()}-{time.monotonic_ns()}"
        log = open(os.path.join(self.options.work, f"{name}.log"), "w")
        environment = dict(os.environ, QATTRAIN_DATA=self.options.roots["cifar"])
        process = start(self.command(folder, name), stdout=log, stderr=log, env=environment)
        skipped, count = self.WARM_UP // self.EVERY, (self.WARM_UP + steps) // self.EVERY
        lines = self.wait_for(process, os.path.join(folder, name, "metrics.jsonl"), count, log.name)
        process.send_signal(signal.SIGTERM)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        self.used += usage.ru_utime + usage.ru_stime
        subprocess.run(["rm", "-rf", os.path.join(folder, name)], check=True)
        self.losses = [line["train/loss"] for line in lines]
        return {"ms": [1e3 * self.batch / line["train/images_per_second"] for line in lines[skipped:]],
                "loss": self.losses, "peak_mib": self.peak_bytes(lines[-1]) / 2**20,
                "waiting": sum(line["train/data_wait"] for line in lines[skipped:]) / (count - skipped),
                "allocations_after_warm_up": lines[-1]["memory/system_allocations"]
                - lines[skipped - 1]["memory/system_allocations"]}

    @staticmethod
    def peak_bytes(line):
        return line["memory/peak_resident_bytes"]

    @staticmethod
    def wait_for(process, metrics, count, log):
        while True:
            if process.poll() is not None:
                with open(log) as file:
                    raise RuntimeError("qattrain ended: " + file.read()[-2000:])
            if os.path.exists(metrics):
                with open(metrics) as file:
                    lines = [line for line in file.read().splitlines(keepends=True) if line.endswith("\n")]
                if len(lines) >= count:
                    return [json.loads(line) for line in lines[:count]]
            time.sleep(0.25)

    def cpu_seconds(self):
        return self.used

    def end(self):
        pass


class OurInference:
    """`qattrain eval` of an integer program after 20 steps of QAT; the rate is that of the network alone.

    Without workers pictures are decoded between batches, as the peers' are made before the clock starts.
    """

    def __init__(self, net, options):
        self.name, self.net, self.batch, self.options, self.used = "qattrain int8", net, BATCH[net], options, 0.0
        training = Ours.__new__(Ours)
        training.net, training.phase, training.options = net, "qat", options
        self.folder = os.path.join(options.work, "runs", f"{net}-program-{os.getpid()}")
        command = training.command(os.path.dirname(self.folder), os.path.basename(self.folder))
        command += ["train.qat.epochs=1", "--limit-train-batches", "20"]
        self.call([part for part in command if part != "train.qat.epochs=1000"])
        self.first = self.run(4)

    def call(self, command):
        environment = dict(os.environ, QATTRAIN_DATA=self.options.roots["cifar"])
        process = start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        with HighestSize(process.pid) as size:
            text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} gave {process.returncode}: {text[-2000:]}")
        self.used += usage.ru_utime + usage.ru_stime
        return text, size.mib

    def run(self, steps):
        text, peak = self.call([self.options.binary, "eval", self.folder, f"eval.batch={self.batch}", "data.workers=0",
                                "--limit", str((steps + 1) * self.batch)])
        rate = float(re.search(r"\((\d+) in the network\)", text).group(1))
        return {"ms": [1e3 * self.batch / rate], "loss": [], "peak_mib": peak}

    def cpu_seconds(self):
        return self.used

    def end(self):
        subprocess.run(["rm", "-rf", self.folder], check=True)
