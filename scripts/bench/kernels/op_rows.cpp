// scripts/bench/kernels/op_rows.cpp -- the rows of the tests' table of operations: forward, and
// forward with backward.
#include "scripts/bench/kernels/rows.h"
#include "tests/core/ops/op_table.h"

namespace qt::bench {
namespace {

constexpr int64_t batch = 64;

size_t bytes_of(const Inputs& in) {
  size_t bytes = 0;
  for (const Tensor& t : in) bytes += t.bytes();
  return bytes;
}

// Each input and output counted once.
void forward(benchmark::State& state, const OpCase& c) {
  const Inputs in = c.inputs(batch);
  Vars vars;
  for (const Tensor& t : in) vars.emplace_back(t);
  size_t bytes = 0;
  for (auto _ : state) bytes = bytes_of(in) + c.op(vars).value().bytes();
  report_bytes(state, double(bytes));
}

void backward(benchmark::State& state, const OpCase& c) {
  const Inputs in = c.inputs(batch);
  Vars vars;
  for (const Tensor& t : in) vars.emplace_back(t);
  const Tensor dy = weights_for(c.op(vars).value().shape(), 1);
  for (auto _ : state) benchmark::DoNotOptimize(gradients(c.op, in, dy));
  report_bytes(state, 2 * double(bytes_of(in) + dy.bytes()));
}

}  // namespace

void add_op_rows() {
  for (const OpCase& c : op_table()) {
    add("op/" + c.name + "/forward", forward, c);
    add("op/" + c.name + "/with_backward", backward, c);
  }
}

}  // namespace qt::bench
