#!/usr/bin/env python3
# compare.py -- qattrain against PyTorch and ONNX Runtime: alternating processes, medians, a table and a plot.
#
#   "$(scripts/bench/setup.sh | tail -n 1)" scripts/bench/compare.py --cifar DATA --imagenet-tar FILE
#
# DATA/cifar10-jpeg/{train,test}/<class>/*.jpg is CIFAR-10 (QATTRAIN_DATA); FILE holds photographs named <class>_*.JPEG.
# All contestants of one network are built first; then, round by round, each works alone for some steps. A turn in which
# other processes (or the hypervisor) used more than --others of the CPU is thrown away and repeated. Results go to
# WORK/results.json after every round, to docs/performance.md (between marks) and docs/performance_*.svg.
import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tarfile
import time

import contestants as c

NETS = list(c.BATCH)
TRAINING = ["float", "float-compiled", "lsq", "lsq-compiled", "lsq-native", "qat-eager", "pt2e", "brevitas"]
CLASS_A = ["bf16", "lsq-bf16"]  # only where the CPU multiplies bf16: elsewhere it is several times slower
INFERENCE = ["onnxruntime-int8", "onnxruntime-float", "pytorch-int8", "pytorch-float"]
STEPS = {"cifar-resnet20": 20, "cifar-resnet18": 6, "imagenet-resnet18": 6}


def cpu_flags():
    with open("/proc/cpuinfo") as file:
        text = file.read()
    model = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "?")
    return model, set(next(line for line in text.splitlines() if line.startswith("flags")).split())


def machine():
    model, flags = cpu_flags()
    sets = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16") if name in flags]
    return {"cpu": model, "cores": os.cpu_count(), "sets": sets, "class": "A" if "avx512_bf16" in flags else "B",
            "system": platform.platform(), "date": time.strftime("%Y-%m-%d"), "jemalloc": bool(c.jemalloc())}


def busy_seconds():
    """CPU time that anybody used, the hypervisor's other guests included."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / c.TICKS


def one_turn(contestant, steps):
    """The answer, and the share of the CPU that others used meanwhile."""
    began, busy, own = time.monotonic(), busy_seconds(), contestant.cpu_seconds() + sum(os.times()[:2])
    answer = contestant.run(steps)
    own = contestant.cpu_seconds() + sum(os.times()[:2]) - own
    seconds = time.monotonic() - began
    answer["others"] = max(0.0, busy_seconds() - busy - own) / (seconds * os.cpu_count())
    return answer


def build(names, net, options):
    ready = []
    for name in names:
        began = time.monotonic()
        try:
            if name == "qattrain int8":
                ready.append(c.OurInference(net, options))
            elif name.startswith("qattrain "):
                ready.append(c.Ours(name.split()[1], net, options))
            else:
                ready.append(c.Peer(name, net, options, "inference.py" if options.inference else "peers.py"))
        except Exception as error:  # one peer that cannot be built does not end the comparison; its absence is shown
            print(f"  {name}: LEFT OUT: {error}", flush=True)
            continue
        loss = ready[-1].first["loss"]
        text = f", loss {loss[0]:.3f} -> {statistics.mean(loss[17:20]):.3f} after 20 steps" if len(loss) >= 20 else ""
        print(f"  {name}: ready in {time.monotonic() - began:.0f} s{text}", flush=True)
    return ready


def entry_for(contestant):
    loss = contestant.first["loss"]
    return {"batch": contestant.batch, "rounds": [], "discarded": 0, "peak_mib": 0,
            "loss_first": loss[0] if loss else None, "loss_20": statistics.mean(loss[17:20]) if len(loss) >= 20 else None}


def compare(net, names, options, results):
    print(f"{net}, batch {c.BATCH[net]}", flush=True)
    ready = build(names, net, options)
    entries = results.setdefault(net, {})
    for contestant in ready:
        entries[contestant.name] = entry_for(contestant)
    steps = options.steps or STEPS[net]
    for number in range(options.rounds):
        for contestant in ready:
            entry = entries[contestant.name]
            for attempt in range(1 + options.retries):
                answer = one_turn(contestant, steps)
                entry["peak_mib"] = max(entry["peak_mib"], answer["peak_mib"])
                if answer["others"] <= options.others or options.allow_busy:
                    entry["rounds"].append(statistics.median(answer["ms"]))
                    entry.update({key: answer[key] for key in ("waiting", "allocations_after_warm_up") if key in answer})
                    break
                entry["discarded"] += 1
                print(f"  round {number + 1}, {contestant.name}: discarded, others used "
                      f"{100 * answer['others']:.0f} % of the CPU", flush=True)
        print(f"  round {number + 1}: " + ", ".join(
            f"{name} {entry['rounds'][-1]:.1f}" for name, entry in entries.items() if entry["rounds"]) + " ms", flush=True)
        save(results, options)
    for contestant in ready:
        contestant.end()


def save(results, options):
    with open(options.results + ".new", "w") as file:
        json.dump(results, file, indent=1)
    os.replace(options.results + ".new", options.results)


# ---- data ----
def prepare_imagenet(tar, folder):
    """train/<class>/*: 16 photographs, each 100 times (an epoch that is not over at once); test/<class>/*: 20 times.

    So few that 20 steps must learn them."""
    if os.path.isdir(os.path.join(folder, "test")):
        return
    with tarfile.open(tar) as archive:
        for member in sorted((m for m in archive.getmembers() if m.isfile()), key=lambda m: m.name)[:16]:
            data = archive.extractfile(member).read()
            for split, copies in (("train", 100), ("test", 20)):
                place = os.path.join(folder, split, os.path.basename(member.name).split("_")[0])
                os.makedirs(place, exist_ok=True)
                for i in range(copies):
                    with open(os.path.join(place, f"{i:03}.jpg"), "wb") as file:
                        file.write(data)


# ---- what is written ----
def table(results, inference):
    """Markdown. The ratio is the peer's time over qattrain's (QAT; float in brackets; int8 for inference)."""
    text = ""
    for net in NETS:
        entries = {name: entry for name, entry in results.get(net, {}).items() if entry["rounds"]}
        if not entries:
            continue
        ours = [entries.get(name) for name in (["qattrain int8"] if inference else ["qattrain qat", "qattrain float"])]
        columns = "| ms a batch | img/s | peak MiB | ratio |" if inference else \
            "| ms a step | least, most | img/s | peak MiB | ratio to ours: qat, float | loss, first and after 20 steps |"
        text += f"\n**{net}, batch {c.BATCH[net]}**\n\n| {columns}\n|---{'|---' * (columns.count('|') - 1)}|\n"
        for name, entry in sorted(entries.items(), key=lambda item: statistics.median(item[1]["rounds"])):
            ms = statistics.median(entry["rounds"])
            ratios = ", ".join(f"{ms / statistics.median(o['rounds']):.2f}" if o else "-" for o in ours)
            title = f"**{name}**" if name.startswith("qattrain") else name
            least = "" if inference else f"{min(entry['rounds']):.1f}, {max(entry['rounds']):.1f} | "
            loss = "" if inference else f" {entry['loss_first']:.3f}, {entry['loss_20']:.3f} |"
            text += (f"| {title} | {ms:.1f} | {least}{1e3 * entry['batch'] / ms:.0f} | {entry['peak_mib']:.0f} | "
                     f"{ratios} |{loss}\n")
    where = results["machine"]
    rounds = max((len(e["rounds"]) for net in NETS for e in results.get(net, {}).values()), default=0)
    thrown = sum(e["discarded"] for net in NETS for e in results.get(net, {}).values())
    note = (f"\n{where['cpu']} (class {where['class']}), {where['cores']} cores, {results['threads']} threads, "
            f"{where['date']}, torch {results['torch']}; medians of {rounds} rounds, {thrown} turns discarded; jemalloc for "
            f"the peers: {'yes' if where['jemalloc'] else 'no'}.\n")
    if results["busy"]:
        note += "\n**Other processes were using the CPU (--allow-busy): these numbers are no measurement.**\n"
    return text.strip("\n") + "\n" + note


def put_between_marks(path, mark, text):
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    with open(path) as file:
        page = file.read()
    if begin not in page or end not in page:
        sys.exit(f"{path} has no {begin} ... {end}")
    head, rest = page.split(begin, 1)
    with open(path, "w") as file:
        file.write(head + begin + "\n" + text + end + rest.split(end, 1)[1])


def plot(results, path, inference):
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot
    shown = [net for net in NETS if any(e["rounds"] for e in results.get(net, {}).values())]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(5 * len(shown), 4), squeeze=False)
    for axis, net in zip(axes[0], shown):
        entries = sorted(((statistics.median(e["rounds"]), name) for name, e in results[net].items() if e["rounds"]),
                         reverse=True)
        colours = ["#c44e52" if name.startswith("qattrain") else "#8c9bb0" for _, name in entries]
        bars = axis.barh([name for _, name in entries], [ms for ms, _ in entries], color=colours)
        axis.bar_label(bars, fmt="%.0f", padding=2)
        axis.set_title(f"{net}, batch {c.BATCH[net]}")
        axis.set_xlabel("ms a batch (inference)" if inference else "ms a training step")
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{results['machine']['cpu']}, {results['threads']} threads"
                    + (" (busy machine)" if results["busy"] else ""))
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def write(results, options):
    kind = "inference" if options.inference else "training"
    text = table(results, options.inference)
    print(text)
    name = f"{kind} class {results['machine']['class']}"
    if options.plot:
        picture = options.plot.replace(".svg", f"_{name.replace(' ', '_').lower()}.svg")
        plot(results, picture, options.inference)
        text += f"\n![{name}]({os.path.basename(picture)})\n"
    if options.page:
        put_between_marks(options.page, name, text)


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", default=os.environ.get("QATTRAIN_DATA"), help="folder that holds cifar10-jpeg")
    parser.add_argument("--imagenet-tar", help="photographs, named <class>_*.JPEG")
    parser.add_argument("--nets", nargs="*", default=NETS, choices=NETS)
    parser.add_argument("--peers", nargs="*", help="default: all that this machine can run")
    parser.add_argument("--inference", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, help="of one turn")
    parser.add_argument("--retries", type=int, default=3, help="of a turn that others disturbed")
    parser.add_argument("--others", type=float, default=0.04, help="share of the CPU that others may use")
    parser.add_argument("--allow-busy", action="store_true", help="keep disturbed turns; the table says so")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--binary", default=os.path.join(c.REPOSITORY, "build/cpu/qattrain"))
    parser.add_argument("--work", default=os.path.expanduser("~/.cache/qattrain-bench/work"))
    parser.add_argument("--page", default=os.path.join(c.REPOSITORY, "docs/performance.md"), help="'' for none")
    parser.add_argument("--plot", default=os.path.join(c.REPOSITORY, "docs/performance.svg"), help="'' for none")
    parser.add_argument("--results", help="default WORK/results.json")
    parser.add_argument("--render", action="store_true", help="only write page and plot from --results")
    options = parser.parse_args()
    options.results = options.results or os.path.join(
        options.work, "inference.json" if options.inference else "training.json")
    return options


def main():
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("compare.py: ended by SIGTERM"))
    os.makedirs(options.work, exist_ok=True)
    if options.render:
        with open(options.results) as file:
            return write(json.load(file), options)
    if not options.cifar or not os.path.isdir(os.path.join(options.cifar, "cifar10-jpeg")):
        sys.exit("compare.py: --cifar (or QATTRAIN_DATA) must name the folder that holds cifar10-jpeg")
    options.roots = {"cifar": options.cifar, "cache": os.path.join(options.work, "cifar.pt"),
                     "imagenet": os.path.join(options.work, "imagenet")}
    if any(net.startswith("imagenet") for net in options.nets):
        if options.imagenet_tar:
            prepare_imagenet(options.imagenet_tar, options.roots["imagenet"])
        elif not os.path.isdir(options.roots["imagenet"]):
            sys.exit("compare.py: --imagenet-tar is needed for imagenet-resnet18")
    import torch
    where = machine()
    results = {"machine": where, "threads": options.threads, "torch": torch.__version__, "busy": options.allow_busy}
    peers = options.peers
    if peers is None:
        peers = INFERENCE if options.inference else TRAINING + (CLASS_A if where["class"] == "A" else [])
    names = ["qattrain int8"] if options.inference else ["qattrain qat", "qattrain float"]
    for net in options.nets:
        compare(net, names + peers, options, results)
    write(results, options)


if __name__ == "__main__":
    main()
