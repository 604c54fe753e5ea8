// core/library/winograd/tiles.h -- how an image is cut into tiles, and how blocks of tiles are
// spread over threads.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/kernel/parallel.h"
#include "core/library/avx2/pictures.h"
#include "core/library/library.h"

namespace qt::winograd {

using avx2::Pictures;

// The tile of side `size` whose first output pixel is (h, w) of picture n.
struct Tile {
  int64_t n, h, w;
};

// All output tiles of a batch of pictures, row by row.
struct TileGrid {
  int64_t pictures, height, width, size;  // of the output, in pixels
  int64_t rows() const { return (height + size - 1) / size; }
  int64_t columns() const { return (width + size - 1) / size; }
  int64_t tiles() const { return pictures * rows() * columns(); }
  Tile tile(int64_t index) const {
    const int64_t column = index % columns(), row = index / columns() % rows();
    return {index / columns() / rows(), row * size, column * size};
  }
};

// Elements of a cache line. Transform points are kept one line further apart than their data needs:
// a tile writes to all of them, and at a distance of a power of two they would share one cache set.
template <class T>
constexpr int64_t line = 64 / int64_t(sizeof(T));

// A run of tiles that is transformed, multiplied and transformed back together. `worker` says whose
// scratch memory holds it.
struct Block {
  int64_t first, tiles;
  int worker;
};

// Tiles that are worth transforming together, by measurement (docs/performance.md): enough to pay
// for reading the weights again, few enough to stay in a core's caches.
constexpr int64_t tiles_at_a_time = 48;

// Up to a few MiB of transformed weights every thread works on blocks of its own and reads them
// again for each block; beyond, all threads share a block and each reads its part of the weights
// once.
struct BlockPlan {
  int64_t tiles, block;  // tiles in all, and in a block at most
  bool shared;

  static BlockPlan of(int64_t tiles, int64_t weight_bytes, int64_t tile_bytes,
                      int64_t scratch = 16 << 20) {
    constexpr int64_t own_weights = 3 << 20;
    constexpr int64_t few = tiles_at_a_time;
    if (weight_bytes > own_weights)
      return {tiles, std::clamp<int64_t>(scratch / tile_bytes, few, tiles + few), true};
    const int64_t rounds = (tiles + few - 1) / few;
    return {tiles, (tiles + rounds - 1) / rounds, false};
  }
  int64_t blocks() const { return (tiles + block - 1) / block; }
  int64_t slots() const { return shared ? 1 : workers(); }  // of scratch memory
  Block at(int64_t i, int worker) const {
    return {i * block, std::min(block, tiles - i * block), worker};
  }
};

// scatter(block, t): tile t of the block to transformed inputs; multiply(block, point): the product
// of one transform point; gather(block, t): to output pixels.
template <class Scatter, class Multiply, class Gather>
void run_blocks(const BlockPlan& plan, int64_t points, const Scatter& scatter,
                const Multiply& multiply, const Gather& gather) {
  if (plan.shared) {
    for (int64_t i = 0; i < plan.blocks(); ++i) {
      const Block block = plan.at(i, 0);
      parallel_for(block.tiles, [&](int64_t t, int) { scatter(block, t); });
      parallel_for(points, [&](int64_t point, int) { multiply(block, point); });
      parallel_for(block.tiles, [&](int64_t t, int) { gather(block, t); });
    }
    return;
  }
  parallel_for(plan.blocks(), [&](int64_t i, int worker) {
    const Block block = plan.at(i, worker);
    for (int64_t t = 0; t < block.tiles; ++t) scatter(block, t);
    for (int64_t point = 0; point < points; ++point) multiply(block, point);
    for (int64_t t = 0; t < block.tiles; ++t) gather(block, t);
  });
}

}  // namespace qt::winograd
