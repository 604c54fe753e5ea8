#!/usr/bin/env python3
"""plot_runs.py OUT.svg RUN[=LABEL[@EPOCHS]]... -- loss and top-1 of runs in one picture.

RUN is a run folder; its metrics.jsonl is read. LABEL names it (default: the folder's name). EPOCHS shifts it to the right: for a
run that began from another's weights (train.init_from) after so many epochs. Needs matplotlib.
"""
import json
import pathlib
import sys


def points(folder, key):
    """(epoch as a real number, value) for every record that has the key."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ends = {}  # epoch -> its last step
    for record in records:
        ends[record["epoch"]] = max(record["step"], ends.get(record["epoch"], 0))
    per_epoch = ends[min(ends)] if ends else 1
    return [(record["step"] / per_epoch, record[key]) for record in records if key in record]


def main():
    if len(sys.argv) < 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__.strip())
    try:
        import matplotlib
    except ImportError:
        sys.exit("plot_runs.py needs matplotlib: pip install matplotlib")

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "qattrain"  # the same file for the same numbers
    from matplotlib import pyplot

    figure, (loss, top1) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for argument in sys.argv[2:]:
        path, _, rest = argument.partition("=")
        label, _, shift = rest.partition("@")
        folder = pathlib.Path(path)
        if not (folder / "metrics.jsonl").exists():
            sys.exit(f"plot_runs.py: {folder}/metrics.jsonl does not exist")
        for axis, key in ((loss, "train/loss"), (top1, "eval/top1")):
            xy = [(x + float(shift or 0), y) for x, y in points(folder, key)]
            style = {"linewidth": 1} if axis is loss else {"marker": "o", "markersize": 3, "linewidth": 1}
            axis.plot(*zip(*xy), label=label or folder.name, **style)
    loss.set(xlabel="epoch", ylabel="training loss", yscale="log")
    top1.set(xlabel="epoch", ylabel="top-1 of the test pictures, %")
    top1.legend()
    for axis in (loss, top1):
        axis.grid(alpha=0.3)
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
