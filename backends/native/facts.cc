#include "backends/native/facts.h"

#include <c10/core/DefaultDtype.h>
#include <c10/core/ScalarType.h>

#include "backends/alias.h"
#include "backends/dispatch.h"

namespace framejit::native {
namespace {

at::ScalarType Promote(at::ScalarType a, at::ScalarType b) {
  if (a == at::ScalarType::Undefined) return b;
  if (b == at::ScalarType::Undefined) return a;
  return c10::promoteTypes(a, b);
}

// Mirrors combine_categories of ATen/native/TypeProperties.cpp: the lower category matters only where its kind is
// higher.
at::ScalarType CombineCategories(at::ScalarType higher, at::ScalarType lower) {
  if (higher == at::ScalarType::Undefined) return lower;
  if (c10::isComplexType(higher)) return higher;
  if (c10::isFloatingType(higher)) {
    if (lower != at::ScalarType::Undefined && c10::isComplexType(lower)) return c10::toComplexType(higher);
    return higher;
  }
  if (lower == at::ScalarType::Undefined) return higher;
  if (higher == at::ScalarType::Bool || c10::isFloatingType(lower) || c10::isComplexType(lower)) {
    return Promote(higher, lower);
  }
  return higher;
}

}  // namespace

GraphFacts::GraphFacts(const Graph& g, c10::Device d)
    : graph(g),
      device(d),
      producers(Producers(g)),
      roots(AliasRoots(g)),
      users(g.values.size()),
      escapes(g.values.size(), false) {
  for (size_t i = 0; i < g.nodes.size(); ++i) {
    ForEachOperandValue(g.nodes[i], [&](ValueId id) {
      auto& readers = users[static_cast<size_t>(id)];
      if (readers.empty() || readers.back() != static_cast<int32_t>(i)) readers.push_back(static_cast<int32_t>(i));
    });
  }
  for (ValueId id : g.outputs) {
    if (id != kNoValue) escapes[static_cast<size_t>(id)] = true;
  }
  for (const InputMutation& mutation : g.mutations) escapes[static_cast<size_t>(mutation.value)] = true;
  for (const GraphConstant& constant : g.constants) constants[constant.id] = &constant.tensor;
}

std::optional<c10::Scalar> GraphFacts::ScalarConstant(ValueId id) const {
  auto it = constants.find(id);
  if (it == constants.end() || it->second->dim() != 0 || !it->second->is_cpu() || !HasLoopForm(graph.meta(id))) {
    return std::nullopt;
  }
  RecordedLevelGuard level;
  return it->second->item();
}

bool GraphFacts::HasLoopForm(const TensorMeta& meta) {
  return !meta.is_conj && !meta.is_neg && LoopDType(meta.dtype).has_value();
}

std::optional<loop::DType> LoopDType(at::ScalarType type) {
  using loop::DType;
  switch (type) {
    case at::ScalarType::Bool:
      return DType::kBool;
    case at::ScalarType::Byte:
      return DType::kUInt8;
    case at::ScalarType::Char:
      return DType::kInt8;
    case at::ScalarType::Short:
      return DType::kInt16;
    case at::ScalarType::Int:
      return DType::kInt32;
    case at::ScalarType::Long:
      return DType::kInt64;
    case at::ScalarType::Half:
      return DType::kFloat16;
    case at::ScalarType::BFloat16:
      return DType::kBFloat16;
    case at::ScalarType::Float:
      return DType::kFloat32;
    case at::ScalarType::Double:
      return DType::kFloat64;
    default:
      return std::nullopt;  // torch's enumeration, most of which the IR does not have
  }
}

loop::DType ComputeDType(loop::DType storage) {
  switch (loop::ClassOf(storage)) {
    case loop::DTypeClass::kNarrowInt:
      return loop::DType::kInt32;
    case loop::DTypeClass::kNarrowFloat:
      return loop::DType::kFloat32;
    case loop::DTypeClass::kBool:
    case loop::DTypeClass::kInt:
    case loop::DTypeClass::kFloat:
      return storage;
  }
  return storage;
}

void Promotion::AddTensor(at::ScalarType type, int64_t dim) {
  at::ScalarType& category = dim > 0 ? dim_ : zero_dim_;
  category = Promote(category, type);
}

void Promotion::AddWrappedNumber(at::ScalarType type) {
  if (c10::isFloatingType(type)) type = c10::typeMetaToScalarType(c10::get_default_dtype());
  wrapped_ = Promote(wrapped_, type);
}

at::ScalarType Promotion::Result() const { return CombineCategories(dim_, CombineCategories(zero_dim_, wrapped_)); }

}  // namespace framejit::native
