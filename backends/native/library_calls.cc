#include "backends/native/library_calls.h"

#include <ATen/core/List.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/InferenceMode.h>

#include "backends/dispatch.h"
#include "backends/native/target.h"

namespace framejit::native {
namespace {

bool HasLayout(const at::Tensor& tensor, const TensorMeta& meta) {
  if (tensor.scalar_type() != meta.dtype || tensor.sizes() != c10::IntArrayRef(meta.sizes)) return false;
  for (size_t i = 0; i < meta.sizes.size(); ++i) {
    if (meta.sizes[i] > 1 && tensor.stride(static_cast<int64_t>(i)) != meta.strides[i]) return false;
  }
  return true;
}

// Files one result. What kernels read must have the layout that was recorded.
void FileResult(const LibraryStep& step, const LibraryResult& result, at::Tensor tensor, CallState& call) {
  if (result.local < 0) return;
  if (result.base >= 0) {
    if (!HasLayout(tensor, *result.meta)) {
      TORCH_INTERNAL_ASSERT(tensor.sizes() == c10::IntArrayRef(result.meta->sizes), OperatorName(step.node->op),
                            " returned another shape than was recorded");
      at::Tensor expected =
          at::empty_strided(result.meta->sizes, result.meta->strides, tensor.options().dtype(result.meta->dtype));
      tensor = expected.copy_(tensor);
    }
    call.bases[result.base] = const_cast<void*>(tensor.const_data_ptr());
  }
  call.locals[result.local] = std::move(tensor);
}

bool IsOptionalTensorList(const c10::TypePtr& type) {
  auto list = type->cast<c10::ListType>();
  return list != nullptr && list->getElementType()->kind() == c10::TypeKind::OptionalType;
}

c10::IValue ListOperand(const c10::TypePtr& type, c10::ArrayRef<TensorRef> refs, const CallState& call) {
  if (IsOptionalTensorList(type)) {
    c10::List<std::optional<at::Tensor>> list;
    for (TensorRef ref : refs) {
      list.push_back(ref.kind == TensorRef::Kind::kNone ? std::nullopt : std::make_optional(call.At(ref)));
    }
    return list;
  }
  c10::List<at::Tensor> list;
  list.reserve(refs.size());
  for (TensorRef ref : refs) list.push_back(call.At(ref));
  return list;
}

void PushOperand(const LibraryStep& step, size_t i, const CallState& call, torch::jit::Stack& stack) {
  const Operand& operand = step.node->operands[i];
  const c10::TypePtr& type = step.node->op.schema().arguments()[i].type();
  switch (operand.kind) {
    case Operand::Kind::kConstant:
      stack.push_back(operand.constant);
      return;
    case Operand::Kind::kValue:
      if (operand.value == kNoValue && type->kind() == c10::TypeKind::OptionalType) {
        stack.emplace_back();
      } else if (type->kind() == c10::TypeKind::NumberType) {
        stack.emplace_back(call.At(step.operands[i][0]).item());
      } else {
        stack.emplace_back(call.At(step.operands[i][0]));
      }
      return;
    case Operand::Kind::kValueList:
      stack.push_back(ListOperand(type, step.operands[i], call));
      return;
  }
}

}  // namespace

const at::Tensor& TensorOperand(const LibraryStep& step, const CallState& call, size_t i) {
  return call.At(step.operands[i][0]);
}
c10::Scalar ScalarOperand(const LibraryStep& step, size_t i) { return step.node->operands[i].constant.toScalar(); }
at::Tensor& Out(const LibraryStep& step, const CallState& call) { return const_cast<at::Tensor&>(call.At(step.out)); }

Frame::Frame(const Plan& plan) {
  if (plan.arena_bytes == 0) return;
  c10::InferenceMode normal_tensors(false);  // the frame outlives this call's mode
  c10::DataPtr data = plan.target->AllocateArena(static_cast<size_t>(plan.arena_bytes));
  arena = data.get();
  storage_ = c10::Storage(c10::Storage::use_byte_size_t(), static_cast<size_t>(plan.arena_bytes), std::move(data),
                          /*allocator=*/nullptr, /*resizable=*/false);
  for (const FrameTensor& planned : plan.frame_tensors) {
    int64_t item = static_cast<int64_t>(c10::elementSize(planned.shape.dtype));
    tensors.push_back(TensorOver(storage_, planned.shape, planned.offset / item));
  }
}

at::Tensor TensorOver(c10::Storage storage, const TensorShape& shape, int64_t storage_offset) {
  const auto key = storage.device().is_cpu() ? c10::DispatchKey::CPU : c10::DispatchKey::CUDA;
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key),
                                                               c10::scalarTypeToTypeMeta(shape.dtype));
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(shape.sizes, shape.strides, storage_offset);
  return tensor;
}

void CallBoxed(const LibraryStep& step, CallState& call) {
  torch::jit::Stack stack;
  stack.reserve(step.node->operands.size());
  for (size_t i = 0; i < step.node->operands.size(); ++i) PushOperand(step, i, call, stack);
  CallOperator(step.node->op, stack);
  size_t next = 0;
  auto file = [&](at::Tensor tensor) {
    TORCH_INTERNAL_ASSERT(next < step.results.size(), OperatorName(step.node->op), " returned too many tensors");
    FileResult(step, step.results[next++], std::move(tensor), call);
  };
  for (c10::IValue& value : stack) {
    if (value.isTensor()) {
      file(std::move(value).toTensor());
    } else if (value.isTensorList()) {
      for (at::Tensor& element : value.toTensorVector()) file(std::move(element));
    } else if (value.isNone()) {
      file(at::Tensor());
    }  // a number, such as attention's longest length, is no value of the graph
  }
  TORCH_INTERNAL_ASSERT(next == step.results.size(), OperatorName(step.node->op), " returned too few tensors");
}

double EstimateLibraryCall(const Graph& graph, const Node& node) {
  double elements = 0, largest_inner = 1;
  for (ValueId id : node.outputs) {
    if (id != kNoValue) elements += static_cast<double>(graph.meta(id).numel());
  }
  std::string name = OperatorName(node.op);
  bool product = name.find("mm") != std::string::npos || name.find("conv") != std::string::npos ||
                 name.find("attention") != std::string::npos;
  ForEachOperandValue(node, [&](ValueId id) {
    const TensorMeta& meta = graph.meta(id);
    elements += static_cast<double>(meta.numel());
    if (product && !meta.sizes.empty()) largest_inner = std::max(largest_inner, static_cast<double>(meta.sizes.back()));
  });
  return 500 + elements * (product ? largest_inner / 32 : 0.5);
}

}  // namespace framejit::native
