#include "backends/cuda/out_calls.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "backends/native/library_calls.h"

namespace framejit::cuda {
namespace {

using native::CallState;
using native::LibraryStep;
using native::Out;
using native::OutCall;
using native::ScalarOperand;
using native::TensorOperand;
using native::TensorRef;

void Mm(const LibraryStep& step, CallState& call) {
  at::mm_outf(TensorOperand(step, call, 0), TensorOperand(step, call, 1), Out(step, call));
}

constexpr int64_t kVector = 8;  // elements of two bytes in an access of 16

// Where no 16-byte access fits the rows of a product, cuBLAS takes up to eight times as long. Of every eighth row all
// begin alike: so this is eight products, each of those rows and of the columns from the first on at which an access
// fits, and two of the few columns at either end.
void MmOfMisalignedRows(const LibraryStep& step, CallState& call) {
  const at::Tensor &a = TensorOperand(step, call, 0), &b = TensorOperand(step, call, 1), &out = Out(step, call);
  const int64_t columns = out.size(1), most = (columns - kVector + 1) / kVector * kVector;
  const auto multiply = [&](const at::Tensor& left, at::Tensor result, int64_t begin, int64_t count) {
    result = result.narrow(1, begin, count);
    at::mm_outf(left, b.narrow(1, begin, count), result);
  };
  multiply(a, out, 0, kVector);
  multiply(a, out, columns - 2 * kVector, 2 * kVector);
  for (int64_t row = 0; row < kVector; ++row) {
    const int64_t begin = (kVector - row * columns % kVector) % kVector;
    multiply(a.slice(0, row, {}, kVector), out.slice(0, row, {}, kVector), begin, most);
  }
}

// In microseconds, by what an H100 does: operations of products of odd and of even rows and of those that an access
// fits, bytes of the right operand, which each of eight products reads, and what ten launches take.
bool AreMisalignedRowsSooner(const Graph& graph, const Node& node) {
  const TensorMeta& product = graph.meta(node.outputs[0]);
  const TensorMeta &a = graph.meta(node.operands[0].value), &b = graph.meta(node.operands[1].value);
  const bool narrow = product.dtype == at::kHalf || product.dtype == at::kBFloat16;
  if (graph.modes.strict || !narrow || !product.is_contiguous() || product.sizes[1] % kVector == 0) return false;
  const auto fits = [](const TensorMeta& meta, size_t along) {
    return meta.strides[along] == 1 && meta.strides[1 - along] % kVector == 0 && meta.storage_offset % kVector == 0;
  };
  if (!fits(a, 1) || !fits(b, 0) || a.sizes[1] % kVector != 0 || product.sizes[1] < 16 * kVector) return false;
  const double weight = static_cast<double>(b.numel()), operations = 2 * weight * static_cast<double>(a.sizes[0]);
  const double misaligned = operations / (product.sizes[1] % 2 != 0 ? 95e6 : 248e6);
  return misaligned > std::max(operations / 500e6, kVector * 2 * weight / 2.4e6) + 60;
}

void Bmm(const LibraryStep& step, CallState& call) {
  at::bmm_outf(TensorOperand(step, call, 0), TensorOperand(step, call, 1), Out(step, call));
}

void Addmm(const LibraryStep& step, CallState& call) {
  at::addmm_outf(TensorOperand(step, call, 0), TensorOperand(step, call, 1), TensorOperand(step, call, 2),
                 ScalarOperand(step, 3), ScalarOperand(step, 4), Out(step, call));
}

void AddmmActivation(const LibraryStep& step, CallState& call) {
  at::_addmm_activation_outf(TensorOperand(step, call, 0), TensorOperand(step, call, 1), TensorOperand(step, call, 2),
                             ScalarOperand(step, 3), ScalarOperand(step, 4), step.node->operands[5].constant.toBool(),
                             Out(step, call));
}

void Baddbmm(const LibraryStep& step, CallState& call) {
  at::baddbmm_outf(TensorOperand(step, call, 0), TensorOperand(step, call, 1), TensorOperand(step, call, 2),
                   ScalarOperand(step, 3), ScalarOperand(step, 4), Out(step, call));
}

void Cat(const LibraryStep& step, CallState& call) {
  c10::SmallVector<at::Tensor, 8> parts;
  for (TensorRef ref : step.operands[0]) parts.push_back(call.At(ref));
  at::cat_outf(at::TensorList(parts), step.node->operands[1].constant.toInt(), Out(step, call));
}

}  // namespace

OutCall FindOutCall(const Graph& graph, const Node& node) {
  static const auto* calls = new absl::flat_hash_map<std::string, OutCall>{
      {"aten::mm", {Mm}},           {"aten::bmm", {Bmm}}, {"aten::addmm", {Addmm}},
      {"aten::baddbmm", {Baddbmm}}, {"aten::cat", {Cat}}, {"aten::_addmm_activation", {AddmmActivation}},
  };
  const std::string name = OperatorName(node.op);
  if (name == "aten::mm" && AreMisalignedRowsSooner(graph, node)) return {MmOfMisalignedRows};
  const auto it = calls->find(name);
  return it == calls->end() ? OutCall() : it->second;
}

}  // namespace framejit::cuda
