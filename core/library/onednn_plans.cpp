// core/library/onednn_plans.cpp -- creating and running oneDNN's convolutions.
#include "core/library/onednn_plans.h"

#include "core/library/onednn_integer.h"

namespace qt {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;
using Type = memory::data_type;

const dnnl::engine& cpu() {
  static const dnnl::engine engine = [] {
    limit_onednn();
    return dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return engine;
}

dnnl::stream& stream() {
  static thread_local dnnl::stream stream(cpu());
  return stream;
}

// Scratch memory is ours, so that the pool counts and reuses it.
dnnl::primitive_attr attributes() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

// A convolution's extents and operands in oneDNN's order of extents.
struct Operands {
  memory::dims x, w, y, stride, dilation, padding;
  explicit Operands(const Conv2dShape& s)
      : x{s.n, s.c, s.h, s.w},
        w{s.k, s.c / s.groups, s.r, s.s},
        y{s.n, s.k, s.out_h(), s.out_w()},
        stride{s.stride, s.stride},
        dilation{s.dilation - 1, s.dilation - 1},
        padding{s.padding, s.padding} {
    if (s.groups != 1) w = {s.groups, s.k / s.groups, s.c / s.groups, s.r, s.s};
  }
  memory::desc images_x(Type type) const { return {x, type, Tag::nhwc}; }
  memory::desc images_y(Type type) const { return {y, type, Tag::nhwc}; }
  memory::desc any_w(Type type) const { return {w, type, Tag::any}; }
  memory::desc krsc_w(Type type) const { return {w, type, w.size() == 5 ? Tag::gohwi : Tag::ohwi}; }
  memory::desc kcrs_w(Type type) const { return {w, type, w.size() == 5 ? Tag::goihw : Tag::oihw}; }
};

dnnl::convolution_forward::primitive_desc forward_desc(const PlanKey& key, Type y_type) {
  const Operands o(key.shape);
  const bool integer = key.images == Type::u8 || key.images == Type::s8;
  const Type w_type = integer ? Type::s8 : key.images;
  return {{dnnl::prop_kind::forward_training, dnnl::algorithm::convolution_direct,
           o.images_x(key.images), o.any_w(w_type), o.images_y(y_type), o.stride, o.dilation,
           o.padding, o.padding},
          attributes(),
          cpu()};
}

Tensor scratch_for(const memory::desc& desc) {
  return Tensor::empty({int64_t(desc.get_size())}, DType::u8);
}

void execute(const dnnl::primitive& primitive, const memory::desc& scratch,
             std::unordered_map<int, memory> arguments) {
  Tensor bytes;
  if (scratch.get_size()) {
    bytes = scratch_for(scratch);
    arguments.insert({DNNL_ARG_SCRATCHPAD, memory(scratch, cpu(), bytes.raw())});
  }
  primitive.execute(stream(), arguments);
  stream().wait();
}

memory at(const memory::desc& desc, const Tensor& t) { return {desc, cpu(), t.raw()}; }

// KRSC bytes as KCRS.
Tensor transposed(const Tensor& w) {
  const int64_t rows = w.dim(0), taps = w.dim(1) * w.dim(2), channels = w.dim(3);
  Tensor turned = Tensor::empty({rows, channels, w.dim(1), w.dim(2)}, DType::i8);
  const auto* from = static_cast<const int8_t*>(w.raw());
  auto* to = turned.data<int8_t>();
  for (int64_t k = 0; k < rows; ++k, from += taps * channels)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t tap = 0; tap < taps; ++tap) *to++ = from[tap * channels + c];
  return turned;
}

}  // namespace

size_t PlanKeyHash::operator()(const PlanKey& key) const {
  const Conv2dShape& s = key.shape;
  size_t hash = 0;
  for (const int64_t value :
       {s.n, s.h, s.w, s.c, s.k, s.r, s.s, s.stride, s.padding, s.dilation, s.groups,
        int64_t(key.kind), int64_t(key.images), int64_t(key.weights)})
    hash = (hash ^ size_t(value)) * 0x9e3779b97f4a7c15u + (hash >> 29);
  return hash;
}

ConvolutionPlan::ConvolutionPlan(const PlanKey& key, WeightSource weights)
    : kind_(key.kind), weight_source_(weights), shape_(key.shape) {
  switch (key.kind) {
    case ConvolutionKind::forward: create_forward(key); break;
    case ConvolutionKind::backward_data: create_backward_data(key); break;
    case ConvolutionKind::backward_weights: create_backward_weights(key); break;
  }
}

void ConvolutionPlan::create_forward(const PlanKey& key) {
  const auto desc = forward_desc(key, Type::f32);
  primitive_ = dnnl::convolution_forward(desc);
  kernel_ = desc.impl_info_str();
  x_ = desc.src_desc();
  y_ = desc.dst_desc();
  scratch_ = desc.scratchpad_desc();
  adopt_weights(key, desc.weights_desc());
}

void ConvolutionPlan::create_backward_data(const PlanKey& key) {
  const Operands o(key.shape);
  const dnnl::convolution_backward_data::primitive_desc desc(
      {dnnl::algorithm::convolution_direct, o.images_x(Type::f32), o.any_w(key.images),
       o.images_y(key.images), o.stride, o.dilation, o.padding, o.padding},
      attributes(), cpu(), forward_desc(key, key.images));
  primitive_ = dnnl::convolution_backward_data(desc);
  kernel_ = desc.impl_info_str();
  x_ = desc.diff_src_desc();
  y_ = desc.diff_dst_desc();
  scratch_ = desc.scratchpad_desc();
  adopt_weights(key, desc.weights_desc());
}

void ConvolutionPlan::create_backward_weights(const PlanKey& key) {
  const Operands o(key.shape);
  const dnnl::convolution_backward_weights::primitive_desc desc(
      {dnnl::algorithm::convolution_direct, o.images_x(key.images), o.any_w(Type::f32),
       o.images_y(key.images), o.stride, o.dilation, o.padding, o.padding},
      attributes(), cpu(), forward_desc(key, key.images));
  primitive_ = dnnl::convolution_backward_weights(desc);
  kernel_ = desc.impl_info_str();
  x_ = desc.src_desc();
  y_ = desc.diff_dst_desc();
  scratch_ = desc.scratchpad_desc();
  adopt_weights(key, desc.diff_weights_desc());
}

void ConvolutionPlan::adopt_weights(const PlanKey& key, const memory::desc& blocked) {
  const Operands o(key.shape);
  w_blocked_ = blocked;
  w_plain_ = weight_source_ == WeightSource::krsc ? o.krsc_w(key.weights) : o.kcrs_w(key.weights);
  reorders_ = w_plain_ != w_blocked_;
  if (!reorders_) return;
  const bool result = kind_ == ConvolutionKind::backward_weights;
  const dnnl::reorder::primitive_desc desc(cpu(), result ? w_blocked_ : w_plain_, cpu(),
                                           result ? w_plain_ : w_blocked_, attributes());
  reorder_ = dnnl::reorder(desc);
  reorder_scratch_ = desc.scratchpad_desc();
}

Tensor ConvolutionPlan::blocked_weights(const Tensor& w) const {
  const Tensor plain = weight_source_ == WeightSource::kcrs ? transposed(w) : w;
  if (!reorders_) return plain;
  Tensor blocked = scratch_for(w_blocked_);
  execute(reorder_, reorder_scratch_,
          {{DNNL_ARG_FROM, at(w_plain_, plain)}, {DNNL_ARG_TO, at(w_blocked_, blocked)}});
  return blocked;
}

void ConvolutionPlan::run(const Tensor& first, const Tensor& second, Tensor& to) const {
  name_onednn_errors("convolution " + shape_.text(), [&] {
    if (kind_ == ConvolutionKind::forward) {
      const Tensor w = blocked_weights(second);
      execute(primitive_, scratch_,
              {{DNNL_ARG_SRC, at(x_, first)},
               {DNNL_ARG_WEIGHTS, at(w_blocked_, w)},
               {DNNL_ARG_DST, at(y_, to)}});
    } else if (kind_ == ConvolutionKind::backward_data) {
      const Tensor w = blocked_weights(second);
      execute(primitive_, scratch_,
              {{DNNL_ARG_DIFF_DST, at(y_, first)},
               {DNNL_ARG_WEIGHTS, at(w_blocked_, w)},
               {DNNL_ARG_DIFF_SRC, at(x_, to)}});
    } else {
      Tensor dw = reorders_ ? scratch_for(w_blocked_) : to;
      execute(primitive_, scratch_,
              {{DNNL_ARG_SRC, at(x_, first)},
               {DNNL_ARG_DIFF_DST, at(y_, second)},
               {DNNL_ARG_DIFF_WEIGHTS, at(w_blocked_, dw)}});
      if (reorders_)
        execute(reorder_, reorder_scratch_,
                {{DNNL_ARG_FROM, at(w_blocked_, dw)}, {DNNL_ARG_TO, at(w_plain_, to)}});
    }
  });
}

const ConvolutionPlan& ConvolutionPlans::get(const PlanKey& key) {
  const std::lock_guard lock(mutex_);
  auto& plan = plans_[key];
  if (plan) return *plan;
  const bool bytes = key.weights == Type::s8;
  plan = name_onednn_errors("creating convolution " + key.shape.text(), [&] {
    try {
      return std::make_unique<ConvolutionPlan>(key);
    } catch (const dnnl::error&) {
      if (!bytes) throw;
      return std::make_unique<ConvolutionPlan>(key, ConvolutionPlan::WeightSource::kcrs);
    }
  });
  return *plan;
}

}  // namespace qt
