// Metadata of operators that move elements: stack, flip, roll, repeat, index_select, sort, masked_fill, and the backwards
// of views.
#include <ATen/ExpandUtils.h>
#include <c10/core/WrapDimMinimal.h>

#include "graph/fake/own_metas.h"

namespace framejit {
namespace {

// stack(tensors, dim)
void Stack(MetaCall& call) {
  const auto tensors = call[0].toListRef();
  TORCH_CHECK(!tensors.empty(), "stack expects a non-empty TensorList");
  const at::Tensor& first = tensors[0].toTensor();
  at::ScalarType dtype = first.scalar_type();
  for (const c10::IValue& item : tensors) {
    const at::Tensor& tensor = item.toTensor();
    TORCH_CHECK(tensor.sizes() == first.sizes(), "stack expects each tensor to be equal size, but got ", first.sizes(),
                " and ", tensor.sizes());
    dtype = at::promoteTypes(dtype, tensor.scalar_type());
  }
  const int64_t dim = c10::maybe_wrap_dim(call.integer(1), first.dim() + 1);
  c10::DimVector sizes(first.sizes());
  sizes.insert(sizes.begin() + dim, static_cast<int64_t>(tensors.size()));
  call.Return(NewContiguous(sizes, dtype));
}

// index_select(self, dim, index)
void IndexSelect(MetaCall& call) {
  const at::Tensor &self = call.tensor(0), &index = call.tensor(2);
  const int64_t dim = c10::maybe_wrap_dim(call.integer(1), self.dim());
  TORCH_CHECK(index.dim() <= 1, "index_select(): Index is supposed to be a vector");
  TORCH_CHECK(index.scalar_type() == at::kLong || index.scalar_type() == at::kInt,
              "index_select(): Expected dtype int32 or int64 for index");
  c10::DimVector sizes(self.sizes());
  if (!sizes.empty()) sizes[static_cast<size_t>(dim)] = index.numel();
  call.Return(NewContiguous(sizes, self.scalar_type()));
}

// flip(self, dims) keeps the strides' order; roll(self, shifts, dims) does not.
void Flip(MetaCall& call) { call.Return(NewLike(call.tensor(0))); }

// repeat(self, repeats)
void Repeat(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  c10::DimVector sizes = call.integers(1);
  TORCH_CHECK(static_cast<int64_t>(sizes.size()) >= self.dim(),
              "Number of dimensions of repeat dims can not be smaller than number of dimensions of tensor");
  const size_t added = sizes.size() - static_cast<size_t>(self.dim());
  for (size_t i = added; i < sizes.size(); ++i) sizes[i] *= self.size(static_cast<int64_t>(i - added));
  call.Return(NewContiguous(sizes, self.scalar_type()));
}

// sort(self, dim, descending): values and indices have the strides of self where it is dense.
void Sort(MetaCall& call) {
  at::Tensor values = NewLike(call.tensor(0));
  at::Tensor indices = NewStrided(values.sizes(), values.strides(), at::kLong);
  call.Return(std::move(values), std::move(indices));
}

// masked_fill(self, mask, value): a clone of self, expanded to the mask.
void MaskedFill(MetaCall& call) {
  const at::Tensor &self = call.tensor(0), &mask = call.tensor(1);
  const c10::DimVector sizes = at::infer_size_dimvector(self.sizes(), mask.sizes());
  if (at::IntArrayRef(sizes) == self.sizes()) return call.Return(NewLike(self));
  const auto expanded = at::inferExpandGeometry_dimvector(self.sizes(), self.strides(), sizes);
  call.Return(NewStrided(sizes, at::infer_dense_strides(sizes, expanded.strides), self.scalar_type()));
}

// select_backward and slice_backward(grad_output, input_sizes, ...)
void ViewBackward(MetaCall& call) { call.Return(NewContiguous(call.integers(1), call.tensor(0).scalar_type())); }

// scatters of a view into a copy: slice_scatter(self, src, ...), select_scatter, index_put(self, indices, values)
void CopyOfSelf(MetaCall& call) { call.Return(NewLike(call.tensor(0))); }

}  // namespace

const std::vector<OwnMetaRow>& ShapeMetas() {
  static const auto* rows = new std::vector<OwnMetaRow>{
      {"aten::stack", Stack},
      {"aten::index_select", IndexSelect},
      {"aten::flip", Flip},
      {"aten::repeat", Repeat},
      {"aten::sort", Sort},
      {"aten::masked_fill.Scalar", MaskedFill},
      {"aten::masked_fill.Tensor", MaskedFill},
      {"aten::select_backward", ViewBackward},
      {"aten::slice_backward", ViewBackward},
      {"aten::index_put", CopyOfSelf},
  };
  return *rows;
}

}  // namespace framejit
