#!/usr/bin/env python3
"""make_golden_names.py -- writes tests/golden/resnet50_names.txt: torchvision's names and shapes of a ResNet-50.

usage: scripts/make_golden_names.py [FOLDER]     (needs torchvision; made with 0.29.2)

One line for each parameter and buffer, "name shape", in torchvision's order; weights of convolutions in our layout KRSC.
num_batches_tracked is left out: nothing reads it.
"""
import sys

import torchvision

folder = sys.argv[1] if len(sys.argv) > 1 else "tests/golden"
with open(f"{folder}/resnet50_names.txt", "w") as file:
    for name, tensor in torchvision.models.resnet50().state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        shape = list(tensor.shape)
        if len(shape) == 4:
            shape = [shape[0], shape[2], shape[3], shape[1]]
        print(name, str(shape), file=file)
