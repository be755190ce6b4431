#include "backends/cpu/out_calls.h"

#include <ATen/CPUFunctions.h>

#include <cstring>

#include "absl/container/flat_hash_map.h"
#include "backends/cpu/parallel.h"
#include "backends/native/library_calls.h"
#include "graph/number_operand.h"

namespace framejit::cpu {
namespace {

using native::CallState;
using native::LibraryStep;
using native::Out;
using native::OutCall;
using native::ScalarOperand;
using native::TensorOperand;
using native::TensorRef;

void Mm(const LibraryStep& step, CallState& call) {
  at::cpu::mm_outf(TensorOperand(step, call, 0), TensorOperand(step, call, 1), Out(step, call));
}

void Bmm(const LibraryStep& step, CallState& call) {
  at::cpu::bmm_outf(TensorOperand(step, call, 0), TensorOperand(step, call, 1), Out(step, call));
}

void Addmm(const LibraryStep& step, CallState& call) {
  at::cpu::addmm_outf(TensorOperand(step, call, 0), TensorOperand(step, call, 1), TensorOperand(step, call, 2),
                      ScalarOperand(step, 3), ScalarOperand(step, 4), Out(step, call));
}

void Baddbmm(const LibraryStep& step, CallState& call) {
  at::cpu::baddbmm_outf(TensorOperand(step, call, 0), TensorOperand(step, call, 1), TensorOperand(step, call, 2),
                        ScalarOperand(step, 3), ScalarOperand(step, 4), Out(step, call));
}

void Cat(const LibraryStep& step, CallState& call) {
  c10::SmallVector<at::Tensor, 8> parts;
  for (TensorRef ref : step.operands[0]) parts.push_back(call.At(ref));
  at::cpu::cat_outf(at::ITensorListRef(at::TensorList(parts)), step.node->operands[1].constant.toInt(),
                    Out(step, call));
}

// The rows of the gradient, added to the rows they were taken from in the order of the indices, as ATen does it.
// Threads take columns.
template <typename T, typename Index>
void AddRows(const at::Tensor& gradient, const at::Tensor& indices, int64_t padding, at::Tensor& out) {
  const int64_t width = out.size(1), count = indices.numel();
  const T* from = gradient.const_data_ptr<T>();
  const Index* row = indices.const_data_ptr<Index>();
  T* to = out.mutable_data_ptr<T>();
  constexpr int64_t kGrain = 32768;  // additions one thread makes at least
  const int64_t grain = std::max<int64_t>(16, kGrain / std::max<int64_t>(count, 1));
  ParallelFor(width, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < count; ++i) {
      if (row[i] == padding || row[i] < 0 || row[i] >= out.size(0)) continue;
      const T* source = from + i * width;
      T* sum = to + row[i] * width;
      for (int64_t c = begin; c < end; ++c) sum[c] += source[c];
    }
  });
}

// embedding_dense_backward(gradient, indices, num_weights, padding_idx, scale_grad_by_freq) into a tensor of zeros:
// most rows are never touched, so that the pages of a large fresh one need not be there.
void EmbeddingGradientIntoZeros(const LibraryStep& step, CallState& call) {
  const at::Tensor gradient = TensorOperand(step, call, 0).contiguous();
  const at::Tensor indices = TensorOperand(step, call, 1).contiguous();
  const int64_t padding = step.node->operands[3].constant.toInt();
  at::Tensor& out = Out(step, call);
  const bool wide = out.scalar_type() == at::kDouble;
  if (indices.scalar_type() == at::kInt) {
    wide ? AddRows<double, int32_t>(gradient, indices, padding, out)
         : AddRows<float, int32_t>(gradient, indices, padding, out);
  } else {
    wide ? AddRows<double, int64_t>(gradient, indices, padding, out)
         : AddRows<float, int64_t>(gradient, indices, padding, out);
  }
}

void EmbeddingGradient(const LibraryStep& step, CallState& call) {
  at::Tensor& out = Out(step, call);
  std::memset(out.mutable_data_ptr(), 0, out.nbytes());
  EmbeddingGradientIntoZeros(step, call);
}

bool HasEmbeddingGradient(const Graph& graph, const Node& node) {
  const TensorMeta& out = graph.meta(node.outputs[0]);
  const at::ScalarType index = graph.meta(node.operands[1].value).dtype;
  return (out.dtype == at::kFloat || out.dtype == at::kDouble) && (index == at::kInt || index == at::kLong) &&
         graph.meta(node.operands[0].value).dtype == out.dtype && !node.operands[4].constant.toBool();
}

// Sums of `kRows` rows side by side: each is one chain of additions, in which most of the time is latency.
template <typename T, typename Sum, int kRows>
void CumulateRows(const T* from, T* to, int64_t width) {
  Sum sum[kRows] = {};
  for (int64_t i = 0; i < width; ++i) {
    for (int row = 0; row < kRows; ++row) {
      sum[row] += from[row * width + i];
      to[row * width + i] = static_cast<T>(sum[row]);
    }
  }
}

// As ATen adds: element by element, floats in double.
template <typename T, typename Sum>
void CumulateAll(const at::Tensor& input, at::Tensor& out) {
  const int64_t width = out.size(-1), rows = out.numel() / width;
  const T* from = input.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  constexpr int kRows = 4;           // with as many results, they fit one set of the first-level cache
  constexpr int64_t kGrain = 32768;  // elements one thread takes at least
  ParallelFor(rows, std::max<int64_t>(kRows, kGrain / width), [&](int64_t begin, int64_t end) {
    int64_t row = begin;
    for (; row + kRows <= end; row += kRows) CumulateRows<T, Sum, kRows>(from + row * width, to + row * width, width);
    for (; row < end; ++row) CumulateRows<T, Sum, 1>(from + row * width, to + row * width, width);
  });
}

void Cumsum(const LibraryStep& step, CallState& call) {
  const at::Tensor& input = TensorOperand(step, call, 0);
  at::Tensor& out = Out(step, call);
  if (out.scalar_type() == at::kLong) return CumulateAll<int64_t, int64_t>(input, out);
  if (out.scalar_type() == at::kDouble) return CumulateAll<double, double>(input, out);
  CumulateAll<float, double>(input, out);
}

// beta and alpha.
bool HasGivenFactors(const Graph&, const Node& node) { return !IsNumberOperand(node, 3) && !IsNumberOperand(node, 4); }

// Along the last dimension, without a change of type.
bool HasCumsum(const Graph& graph, const Node& node) {
  const TensorMeta& input = graph.meta(node.operands[0].value);
  const int64_t rank = static_cast<int64_t>(input.sizes.size()), dim = node.operands[1].constant.toInt();
  const bool last = rank > 0 && (dim == -1 || dim == rank - 1);
  const bool typed = input.dtype == at::kFloat || input.dtype == at::kDouble || input.dtype == at::kLong;
  return last && typed && input.is_contiguous() && graph.meta(node.outputs[0]).dtype == input.dtype;
}

}  // namespace

native::OutCall FindOutCall(const Graph& graph, const Node& node) {
  static const auto* calls = new absl::flat_hash_map<std::string, OutCall>{
      {"aten::mm", {Mm}},
      {"aten::bmm", {Bmm}},
      {"aten::addmm", {Addmm, nullptr, HasGivenFactors}},
      {"aten::baddbmm", {Baddbmm, nullptr, HasGivenFactors}},
      {"aten::cat", {Cat}},
      {"aten::cumsum", {Cumsum, nullptr, HasCumsum}},
      {"aten::embedding_dense_backward", {EmbeddingGradient, EmbeddingGradientIntoZeros, HasEmbeddingGradient}},
  };
  auto it = calls->find(OperatorName(node.op));
  if (it == calls->end() || (it->second.applies != nullptr && !it->second.applies(graph, node))) return {};
  return it->second;
}

}  // namespace framejit::cpu
