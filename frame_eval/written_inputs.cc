#include "frame_eval/written_inputs.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>

#include "backends/alias.h"
#include "graph/fake/mutation.h"

namespace framejit {

std::vector<size_t> WrittenInputs(const Graph& recorded) {
  const std::vector<ValueId> roots = AliasRoots(recorded);
  std::vector<bool> written(recorded.values.size());
  auto mark = [&](const Operand& operand) {
    if (operand.kind == Operand::Kind::kValue && operand.value != kNoValue) {
      written[static_cast<size_t>(roots[static_cast<size_t>(operand.value)])] = true;
    } else if (operand.kind == Operand::Kind::kValueList) {
      for (ValueId id : operand.values) {
        if (id != kNoValue) written[static_cast<size_t>(roots[static_cast<size_t>(id)])] = true;
      }
    }
  };
  for (const Node& node : recorded.nodes) {
    const auto& arguments = node.op.schema().arguments();
    for (size_t i = 0; i < node.operands.size(); ++i) {
      const c10::AliasInfo* alias = arguments[i].alias_info();
      if (alias != nullptr && alias->isWrite()) mark(node.operands[i]);
    }
    if (WritesRunningStatistics(node)) {
      mark(node.operands[kBatchNormMean]);
      mark(node.operands[kBatchNormVariance]);
    }
  }
  std::vector<size_t> positions;
  for (size_t i = 0; i < recorded.inputs.size(); ++i) {
    if (written[static_cast<size_t>(recorded.inputs[i])]) positions.push_back(i);
  }
  return positions;
}

SavedInputs::SavedInputs(c10::ArrayRef<at::Tensor> inputs, const std::vector<size_t>& written) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  for (size_t position : written) {
    const at::Tensor& input = inputs[position];
    saved_.push_back(
        {input, input.clone(), c10::DimVector(input.sizes()), c10::DimVector(input.strides()), input.storage_offset()});
  }
}

void SavedInputs::Restore() {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  for (Saved& saved : saved_) {
    const bool same = saved.input.sizes() == at::IntArrayRef(saved.sizes) &&
                      saved.input.strides() == at::IntArrayRef(saved.strides) &&
                      saved.input.storage_offset() == saved.offset;
    if (!same) saved.input.unsafeGetTensorImpl()->set_sizes_and_strides(saved.sizes, saved.strides, saved.offset);
    saved.input.copy_(saved.copy);
  }
}

}  // namespace framejit
