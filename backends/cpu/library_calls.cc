#include "backends/cpu/library_calls.h"

#include <ATen/CPUFunctions.h>
#include <ATen/core/List.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/InferenceMode.h>

#include <cstring>

#include "absl/container/flat_hash_map.h"
#include "backends/cpu/parallel.h"
#include "backends/dispatch.h"

namespace framejit::cpu {
namespace {

const at::Tensor& TensorOperand(const LibraryStep& step, const CallState& call, size_t i) {
  return call.At(step.operands[i][0]);
}
c10::Scalar ScalarOperand(const LibraryStep& step, size_t i) { return step.node->operands[i].constant.toScalar(); }
// The out tensor is planned memory; ATen's signature wants a mutable reference.
at::Tensor& Out(const LibraryStep& step, const CallState& call) { return const_cast<at::Tensor&>(call.At(step.out)); }

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

// Along the last dimension, without a change of type.
bool HasCumsum(const Graph& graph, const Node& node) {
  const TensorMeta& input = graph.meta(node.operands[0].value);
  const int64_t rank = static_cast<int64_t>(input.sizes.size()), dim = node.operands[1].constant.toInt();
  const bool last = rank > 0 && (dim == -1 || dim == rank - 1);
  const bool typed = input.dtype == at::kFloat || input.dtype == at::kDouble || input.dtype == at::kLong;
  return last && typed && input.is_contiguous() && graph.meta(node.outputs[0]).dtype == input.dtype;
}

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
      at::Tensor expected = at::empty_strided(result.meta->sizes, result.meta->strides, tensor.options());
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

Frame::Frame(const Plan& plan) {
  if (plan.arena_bytes == 0) return;
  c10::InferenceMode normal_tensors(false);  // the frame outlives this call's mode
  c10::DataPtr data = c10::GetCPUAllocator()->allocate(static_cast<size_t>(plan.arena_bytes));
  arena = data.get();
  storage_ = c10::Storage(c10::Storage::use_byte_size_t(), static_cast<size_t>(plan.arena_bytes), std::move(data),
                          /*allocator=*/nullptr, /*resizable=*/false);
  for (const FrameTensor& planned : plan.frame_tensors) {
    int64_t item = static_cast<int64_t>(c10::elementSize(planned.shape.dtype));
    tensors.push_back(TensorOver(storage_, planned.shape, planned.offset / item));
  }
}

at::Tensor TensorOver(c10::Storage storage, const TensorShape& shape, int64_t storage_offset) {
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), c10::scalarTypeToTypeMeta(shape.dtype));
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
    } else {
      file(at::Tensor());
    }
  }
  TORCH_INTERNAL_ASSERT(next == step.results.size(), OperatorName(step.node->op), " returned too few tensors");
}

OutCall FindOutCall(const Graph& graph, const Node& node) {
  static const auto* calls = new absl::flat_hash_map<std::string, OutCall>{
      {"aten::mm", {Mm}},
      {"aten::bmm", {Bmm}},
      {"aten::addmm", {Addmm}},
      {"aten::baddbmm", {Baddbmm}},
      {"aten::cat", {Cat}},
      {"aten::cumsum", {Cumsum, nullptr, HasCumsum}},
      {"aten::embedding_dense_backward", {EmbeddingGradient, EmbeddingGradientIntoZeros, HasEmbeddingGradient}},
  };
  auto it = calls->find(OperatorName(node.op));
  if (it == calls->end() || (it->second.applies != nullptr && !it->second.applies(graph, node))) return {};
  return it->second;
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

}  // namespace framejit::cpu
