#!/usr/bin/env python3
"""make_golden_resize.py -- writes tests/golden/resize.bin: pictures resized by Pillow, for tests/data/resize_test.cpp.

usage: scripts/make_golden_resize.py [FILE]        (needs Pillow below 13: 13 runs the columns first where that is less
work, which rounds differently; made with 12.3.0)

Records, one after the other, all numbers u16 little-endian: height and width of the input, top, left, height and width
of the window that is cropped before, height and width of the output; then the output's bytes [height, width, 3].
The input's bytes are made by formula (see `picture`), so that the file stays small.
"""
import struct
import sys

from PIL import Image

CASES = [  # input (h, w), window (top, left, h, w), output (h, w)
    ((37, 23), (0, 0, 37, 23), (16, 16)),
    ((16, 16), (0, 0, 16, 16), (31, 33)),
    ((75, 100), (0, 0, 75, 100), (24, 32)),
    ((5, 7), (0, 0, 5, 7), (1, 1)),
    ((1, 1), (0, 0, 1, 1), (3, 2)),
    ((33, 32), (0, 0, 33, 32), (32, 32)),
    ((32, 41), (0, 0, 32, 41), (32, 17)),
    ((50, 60), (7, 11, 40, 21), (20, 20)),
    ((300, 200), (0, 0, 300, 200), (9, 14)),
]


def picture(height, width):
    """A 32-bit linear congruential generator; every third row black and white, to reach both ends of the range."""
    state, out = height * 65536 + width, bytearray()
    for y in range(height):
        for _ in range(width * 3):
            state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
            out.append((255 if state >> 31 else 0) if y % 3 == 0 else state >> 24)
    return Image.frombytes("RGB", (width, height), bytes(out))


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "tests/golden/resize.bin"
    with open(path, "wb") as file:
        for (height, width), (top, left, h, w), (out_h, out_w) in CASES:
            crop = picture(height, width).crop((left, top, left + w, top + h))
            result = crop.resize((out_w, out_h), Image.Resampling.BILINEAR)
            file.write(struct.pack("<8H", height, width, top, left, h, w, out_h, out_w) + result.tobytes())


main()
