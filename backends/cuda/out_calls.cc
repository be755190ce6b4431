#include "backends/cuda/out_calls.h"

#include <ATen/ATen.h>

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
  const auto it = calls->find(OperatorName(node.op));
  return it == calls->end() ? OutCall() : it->second;
}

}  // namespace framejit::cuda
