// Shared pieces of the metadata kernels, and the table of all of them.
#include "graph/fake/own_metas.h"

#include <ATen/ExpandUtils.h>
#include <c10/util/strides.h>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "graph/fake/random_state_operators.h"

namespace framejit {

c10::DimVector MetaCall::integers(size_t i) const {
  const c10::IValue& value = (*this)[i];
  if (value.isIntList()) return value.toDimVector();
  c10::DimVector result;
  for (const c10::SymInt& item : value.toSymIntVector()) result.push_back(item.guard_int(__FILE__, __LINE__));
  return result;
}

at::ScalarType MetaCall::dtype(size_t i, at::ScalarType otherwise) const {
  return (*this)[i].isNone() ? otherwise : (*this)[i].toScalarType();
}

at::Tensor NewStrided(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype) {
  return at::Tensor(at::detail::empty_strided_meta(sizes, strides, dtype));
}

at::Tensor NewContiguous(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::Tensor(at::detail::empty_meta(sizes, dtype));
}

at::Tensor NewIn(at::IntArrayRef sizes, at::ScalarType dtype, at::MemoryFormat format) {
  return at::Tensor(at::detail::empty_meta(sizes, dtype, format));
}

at::Tensor NewLike(const at::Tensor& tensor, at::ScalarType dtype) {
  if (tensor.is_non_overlapping_and_dense()) return NewStrided(tensor.sizes(), tensor.strides(), dtype);
  return NewStrided(tensor.sizes(), at::infer_dense_strides(tensor.sizes(), tensor.strides()), dtype);
}

at::Tensor NewLike(const at::Tensor& tensor) { return NewLike(tensor, tensor.scalar_type()); }

OwnMeta FindOwnMeta(const c10::OperatorName& name) {
  static const auto* table = [] {
    auto* rows = new absl::flat_hash_map<std::string, OwnMeta>;
    for (const auto* family : {&FactoryMetas(), &PointwiseMetas(), &ReductionMetas(), &ShapeMetas(), &NeuralMetas(),
                               &StatisticsMetas(), &RandomStateMetas()}) {
      for (const OwnMetaRow& row : *family) rows->emplace(row.op, row.meta);
    }
    return rows;
  }();
  auto it = table->find(name.overload_name.empty() ? name.name : absl::StrCat(name.name, ".", name.overload_name));
  return it == table->end() ? nullptr : it->second;
}

}  // namespace framejit
