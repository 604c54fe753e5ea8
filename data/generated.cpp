// data/generated.cpp -- the built-in data set: textured shapes of ten classes, made from a seed, no
// file needed.
//
// Picture i of a split is a pure function of (seed, split, i, image_size). Only the outline tells
// the class: colours, textures, pose, clutter, brightness and noise are drawn alike for all ten.
// Additions, multiplications, divisions and square roots only (all exactly rounded by IEEE 754; the
// build sets -ffp-contract=off), so every machine draws the same.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/philox.h"
#include "data/dataset.h"
#include "data/parallel.h"

namespace qt {
namespace {

struct Point {
  float x, y;
};
Point operator-(Point a, Point b) { return {a.x - b.x, a.y - b.y}; }
float dot(Point a, Point b) { return a.x * b.x + a.y * b.y; }
float length(Point a) { return std::sqrt(dot(a, a)); }

// --- Outlines: signed distance to the outline (negative inside) of a shape of about unit radius.
// --- After I. Quilez, "2D distance functions", https://iquilezles.org/articles/distfunctions2d/.

float box(Point p, float half_width, float half_height) {
  const Point d{std::fabs(p.x) - half_width, std::fabs(p.y) - half_height};
  const Point outside{std::max(d.x, 0.0f), std::max(d.y, 0.0f)};
  return length(outside) + std::min(std::max(d.x, d.y), 0.0f);
}

float angle(Point p) {  // two arms of a right angle
  return std::min(box({p.x + 0.52f, p.y}, 0.27f, 0.9f),
                  box({p.x - 0.07f, p.y - 0.63f}, 0.86f, 0.27f));
}

float bars(Point p) {  // three parallel bars
  const float x = std::fabs(p.x);
  return box({std::min(x, std::fabs(x - 0.68f)), p.y}, 0.18f, 0.88f);
}

float crescent(Point p) { return std::max(length(p) - 0.95f, 0.78f - length({p.x - 0.5f, p.y})); }

float cross(Point p) { return std::min(box(p, 0.27f, 0.95f), box(p, 0.95f, 0.27f)); }

float disc(Point p) { return length(p) - 0.85f; }

float dots(Point p) { return length({std::fabs(p.x) - 0.56f, p.y}) - 0.40f; }

float ring(Point p) { return std::fabs(length(p) - 0.68f) - 0.22f; }

float square(Point p) { return box(p, 0.74f, 0.74f); }

float star(Point p) {  // five points, inner radius 0.45
  constexpr float outer = 1.08f, inner = 0.45f;
  constexpr Point k1{0.809016994f, -0.587785252f}, k2{-0.809016994f, -0.587785252f};
  p.x = std::fabs(p.x);
  const float a = 2.0f * std::max(dot(k1, p), 0.0f);
  p = p - Point{a * k1.x, a * k1.y};
  const float b = 2.0f * std::max(dot(k2, p), 0.0f);
  p = p - Point{b * k2.x, b * k2.y};
  p.x = std::fabs(p.x);
  p.y -= outer;
  constexpr Point edge{inner * -k1.y, inner * k1.x - 1.0f};
  const float h = std::clamp(dot(p, edge) / dot(edge, edge), 0.0f, outer);
  const float d = length(p - Point{edge.x * h, edge.y * h});
  return p.y * edge.x - p.x * edge.y > 0.0f ? d : -d;
}

float triangle(Point p) {  // equilateral
  constexpr float root3 = 1.7320508f, r = 0.92f;
  p.y += 0.12f;
  p.x = std::fabs(p.x) - r;
  p.y += r / root3;
  if (p.x + root3 * p.y > 0.0f) p = {(p.x - root3 * p.y) / 2.0f, (-root3 * p.x - p.y) / 2.0f};
  p.x -= std::clamp(p.x, -2.0f * r, 0.0f);
  return p.y > 0.0f ? -length(p) : length(p);
}

struct Outline {
  const char* name;
  float (*distance)(Point);
};
constexpr std::array<Outline, 10> outlines{{{"angle", angle},
                                            {"bars", bars},
                                            {"crescent", crescent},
                                            {"cross", cross},
                                            {"disc", disc},
                                            {"dots", dots},
                                            {"ring", ring},
                                            {"square", square},
                                            {"star", star},
                                            {"triangle", triangle}}};

// --- A picture's ingredients. Coordinates run from -1 to 1 across the picture. ---

using Colour = std::array<float, 3>;  // 0 .. 255

Colour draw_colour(Philox& draws) {
  return {draws.uniform(10, 245), draws.uniform(10, 245), draws.uniform(10, 245)};
}

// A colour whose luminance or hue stands out from `other`: the sum of channel differences is at
// least 200.
Colour draw_contrast(Philox& draws, const Colour& other) {
  Colour colour{};
  for (int attempt = 0; attempt < 32; ++attempt) {
    colour = draw_colour(draws);
    float difference = 0;
    for (size_t c = 0; c < 3; ++c) difference += std::fabs(colour[c] - other[c]);
    if (difference >= 200) break;
  }
  return colour;
}

// A direction up to 2 atan(t_max) to either side of the first axis, nearly uniform: a rational
// point of the circle.
Point draw_tilt(Philox& draws, float t_max) {
  const float t = draws.uniform(-t_max, t_max), s = 1.0f + t * t;
  return {(1.0f - t * t) / s, 2.0f * t / s};
}

// Any direction: a tilt of up to 45 degrees, turned by quarters.
Point draw_direction(Philox& draws) {
  const Point d = draw_tilt(draws, 0.41421356f);
  switch (draws.below(4)) {
    case 0: return d;
    case 1: return {-d.y, d.x};
    case 2: return {-d.x, -d.y};
    default: return {d.y, -d.x};
  }
}

// A triangle wave of period 1 between -1 and 1.
float wave(float t) {
  t -= std::floor(t);
  return std::fabs(4.0f * t - 2.0f) - 1.0f;
}

// A periodic pattern along one or two directions, plus a slope of brightness.
struct Texture {
  Point along, across;
  float phase, amplitude, across_weight;
  Colour tint;

  explicit Texture(Philox& draws, float strength) {
    const Point d = draw_direction(draws);
    const float frequency = draws.uniform(0.6f, 3.5f);
    along = {d.x * frequency, d.y * frequency};
    across = {-along.y, along.x};
    phase = draws.uniform();
    amplitude = draws.uniform(0.0f, strength);
    across_weight = draws.below(2) ? 1.0f : 0.0f;  // a check, or stripes
    for (float& t : tint) t = draws.uniform(0.4f, 1.0f);
  }
  float at(Point p) const {
    return amplitude * (wave(dot(p, along) + phase) + across_weight * wave(dot(p, across) + phase));
  }
};

// A short line of clutter with round ends.
struct Stroke {
  Point from, to;
  float radius;
  Colour colour;

  explicit Stroke(Philox& draws) {
    from = {draws.uniform(-1, 1), draws.uniform(-1, 1)};
    const Point d = draw_direction(draws);
    const float reach = draws.uniform(0.08f, 0.45f);
    to = {from.x + d.x * reach, from.y + d.y * reach};
    radius = draws.uniform(0.03f, 0.06f);
    colour = draw_colour(draws);
  }
  float distance(Point p) const {
    const Point a = p - from, b = to - from;
    const float h = std::clamp(dot(a, b) / dot(b, b), 0.0f, 1.0f);
    return length(a - Point{b.x * h, b.y * h}) - radius;
  }
};

class Canvas {
 public:
  explicit Canvas(int side)
      : side_(side), pixel_(2.0f / float(side)), pixels_(size_t(side * side)) {}

  void background(const Colour& colour, const Texture& texture) {
    each(0, 0, side_, side_, [&](Point p, Colour& to) {
      const float t = texture.at(p);
      for (size_t c = 0; c < 3; ++c) to[c] = colour[c] + t * texture.tint[c];
    });
  }

  void draw(const Stroke& stroke) {
    const auto first = [&](float a, float b) {
      return index(std::min(a, b) - stroke.radius - pixel_);
    };
    const auto last = [&](float a, float b) {
      return index(std::max(a, b) + stroke.radius + pixel_) + 1;
    };
    each(first(stroke.from.y, stroke.to.y), first(stroke.from.x, stroke.to.x),
         last(stroke.from.y, stroke.to.y), last(stroke.from.x, stroke.to.x),
         [&](Point p, Colour& to) {
           const float share = covered(stroke.distance(p));
           for (size_t c = 0; c < 3; ++c) to[c] += share * (stroke.colour[c] - to[c]);
         });
  }

  struct Pose {
    Point centre, direction;
    float radius, stretch;
  };
  template <class Distance>
  void draw(Distance distance, const Pose& pose, const Colour& colour, const Texture& texture) {
    const float reach = 1.45f * pose.radius;
    each(index(pose.centre.y - reach), index(pose.centre.x - reach),
         index(pose.centre.y + reach) + 1, index(pose.centre.x + reach) + 1,
         [&](Point p, Colour& to) {
           const Point q = p - pose.centre;
           const Point turned{
               dot(q, pose.direction) / (pose.radius * pose.stretch),
               (q.y * pose.direction.x - q.x * pose.direction.y) * pose.stretch / pose.radius};
           const float share = covered(distance(turned) * pose.radius);
           if (share <= 0.0f) return;
           const float t = texture.at(p);
           for (size_t c = 0; c < 3; ++c)
             to[c] += share * (colour[c] + t * texture.tint[c] - to[c]);
         });
  }

  // Brightness, noise (triangular, from 10 bits a channel), and rounding to bytes.
  void finish(Philox& draws, float gain, float noise, uint8_t* hwc) const {
    for (const Colour& from : pixels_) {
      uint32_t bits = draws.bits();
      for (size_t c = 0; c < 3; ++c, bits >>= 10) {
        const float n =
            (float(bits & 31u) + float((bits >> 5) & 31u) - 31.0f) / 12.6f;  // variance about 1
        *hwc++ = uint8_t(std::clamp(from[c] * gain + n * noise + 0.5f, 0.0f, 255.0f));
      }
    }
  }

 private:
  float centre(int i) const { return (float(i) + 0.5f) * pixel_ - 1.0f; }
  int index(float x) const { return std::clamp(int((x + 1.0f) / pixel_), 0, side_ - 1); }
  float covered(float distance) const { return std::clamp(0.5f - distance / pixel_, 0.0f, 1.0f); }
  template <class Paint>
  void each(int top, int left, int bottom, int right, Paint paint) {
    for (int y = top; y < bottom; ++y)
      for (int x = left; x < right; ++x)
        paint(Point{centre(x), centre(y)}, pixels_[size_t(y * side_ + x)]);
  }

  int side_;
  float pixel_;
  std::vector<Colour> pixels_;
};

void draw_outline(Canvas& canvas, size_t which, const Canvas::Pose& pose, const Colour& colour,
                  const Texture& texture) {
  canvas.draw(outlines[which].distance, pose, colour, texture);
}

void generate(uint64_t seed, Split split, int64_t sample, int side, uint8_t* hwc) {
  Philox draws(seed, DrawKind::generate_image, uint32_t(split), uint32_t(sample));
  Canvas canvas(side);
  const Colour ground = draw_colour(draws), colour = draw_contrast(draws, ground);
  const Texture ground_texture(draws, 18), texture(draws, 14);
  canvas.background(ground, ground_texture);
  const uint32_t below = 1 + draws.below(3), above = draws.below(3);
  for (uint32_t i = 0; i < below; ++i) canvas.draw(Stroke(draws));
  const float radius = draws.uniform(0.52f, 0.80f), room = 1.0f - radius;
  const Canvas::Pose pose{.centre = {draws.uniform(-room, room), draws.uniform(-room, room)},
                          .direction = draw_tilt(draws, 0.268f),  // 30 degrees
                          .radius = radius,
                          .stretch = draws.uniform(0.93f, 1.07f)};
  draw_outline(canvas, size_t(sample) % outlines.size(), pose, colour, texture);
  for (uint32_t i = 0; i < above; ++i) canvas.draw(Stroke(draws));
  const float gain = draws.uniform(0.75f, 1.15f), noise = draws.uniform(2.0f, 10.0f);
  canvas.finish(draws, gain, noise, hwc);
}

// Drawn into memory at start where it fits, else on every read.
class Generated : public MemoryDataset {
 public:
  Generated(const DatasetSpec& spec, Split split) : seed_(spec.seed), split_(split) {
    const int side = spec.image_size ? spec.image_size : 32;
    if (side < 16 || side > 1024)
      throw ConfigError("data.image_size " + std::to_string(side) +
                        ": generated pictures have 16 to 1024 pixels a side");
    const int64_t count = split == Split::train ? spec.train_images : spec.test_images;
    if (count < 1 || count > UINT32_MAX)
      throw ConfigError(std::string("data.") + name_of(split) + "_images " + std::to_string(count) +
                        ": at least 1 and below 2^32");
    set_extents(side, side);
    for (const Outline& outline : outlines) classes_.push_back(outline.name);
    labels_.resize(size_t(count));
    for (size_t i = 0; i < labels_.size(); ++i) labels_[i] = int32_t(i % outlines.size());
    if (count > spec.cache_bytes.value_or(int64_t{1} << 30) / int64_t(picture_bytes())) return;
    pixels_.resize(size_t(count) * picture_bytes());
    for_each_part(count, 64, spec.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        generate(seed_, split_, i, this->height(), pixels_.data() + size_t(i) * picture_bytes());
    });
  }

  int64_t read(int64_t index, uint8_t* hwc) const override {
    if (!pixels_.empty()) return MemoryDataset::read(index, hwc);
    generate(seed_, split_, index, height(), hwc);
    return index;
  }

  std::string name(int64_t index) const override {
    return std::string("generated ") + name_of(split_) + " picture " + std::to_string(index) +
           " of seed " + std::to_string(seed_);
  }

 private:
  uint64_t seed_;
  Split split_;
};

const DatasetRegistry::Add add{"generated", [](const DatasetSpec& spec, Split split) {
                                 return std::make_unique<Generated>(spec, split);
                               }};

}  // namespace
}  // namespace qt
