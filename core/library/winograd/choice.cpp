// core/library/winograd/choice.cpp -- which convolutions these kernels take.
#include "core/library/winograd/tiles.h"
#include "core/library/winograd/transforms.h"
#include "core/library/winograd/winograd.h"

namespace qt::winograd {
namespace {

// Below this many tiles the transformed weights, several times larger than the weights, are read
// for too few products.
constexpr int64_t fewest_tiles = 24;

}  // namespace

bool computes(const Conv2dShape& s) {
  return s.r == 3 && s.s == 3 && s.stride == 1 && s.dilation == 1 && s.groups == 1 &&
         s.padding <= 2 && s.c % 16 == 0 && s.k % 16 == 0;
}

bool is_faster(Operation operation, const Conv2dShape& shape) {
  if (!computes(shape)) return false;
  const bool to_x = operation == Operation::conv2d_backward_data;
  const TileGrid grid{shape.n, to_x ? shape.h : shape.out_h(), to_x ? shape.w : shape.out_w(),
                      float_tile};
  // Where less than half of the tiles' pixels lie inside the picture, the gain is gone.
  const int64_t inside = grid.pictures * grid.height * grid.width;
  return grid.tiles() >= fewest_tiles && 2 * inside >= grid.tiles() * float_tile * float_tile;
}

// A quarter of the multiplications outweighs twice as many a cycle. Not to images of 16 channels,
// where transforms are most of the work, nor of 512, whose transformed weights (38 MB) come from
// memory.
bool is_faster_than_bf16(Operation operation, const Conv2dShape& shape) {
  if (!is_faster(operation, shape)) return false;
  if (operation == Operation::conv2d_backward_weights) return true;
  return std::min(shape.c, shape.k) >= 32 && shape.c * shape.k < 512 * 512;
}

// Both are faster than every direct kernel, from 16 channels and one picture on. Where few pixels
// of the last tiles lie inside the picture, small tiles need fewer products.
int64_t faster_tile(const Conv2dShape& shape, const CodeRange& x, const CodeRange& w) {
  if (!computes(shape) || !stays_exact(shape, x.magnitude(), w.magnitude())) return 0;
  const auto products = [&](int64_t tile) {
    const TileGrid grid{shape.n, shape.out_h(), shape.out_w(), tile};
    return grid.tiles() * (tile + 2) * (tile + 2);
  };
  if (fits(4, x, w) && products(4) < products(2)) return 4;
  return fits(2, x, w) ? 2 : 0;
}

// Four products a lane against two: small tiles do not make up for it, nor do large ones in 16
// channels, where transforms are most of the work.
int64_t faster_tile_than_vnni(const Conv2dShape& shape, const CodeRange& x, const CodeRange& w) {
  const int64_t tile = faster_tile(shape, x, w);
  return tile == 4 && std::min(shape.c, shape.k) >= 32 ? tile : 0;
}

std::string kernel_name(int64_t tile) { return tile == 2 ? "F(2x2, 3x3)" : "F(4x4, 3x3)"; }

}  // namespace qt::winograd
