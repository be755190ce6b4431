// Metadata of operators that move elements: flip, roll, repeat, index_select, sort, masked_fill, and the backwards
// of views.
#include <ATen/ExpandUtils.h>
#include <ATen/ops/cat.h>
#include <c10/core/WrapDimMinimal.h>

#include "graph/fake/own_metas.h"

namespace framejit {
namespace {

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

// flip(self, dims)
void Flip(MetaCall& call) { call.Return(NewLike(call.tensor(0))); }

// roll(self, shifts, dims), step by step as the CPU does it: the layout is what cat makes of the two parts.
void Roll(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  const c10::DimVector shifts = call.integers(1), dims = call.integers(2);
  TORCH_CHECK(!shifts.empty(), "`shifts` required");
  if (dims.empty() && shifts.size() == 1) return call.Return(NewContiguous(self.sizes(), self.scalar_type()));
  TORCH_CHECK(shifts.size() == dims.size(), "shifts and dimensions must align. shifts: ", shifts.size(),
              ", dims:", dims.size());
  at::Tensor result = self;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (result.numel() == 0) {
      result = NewLike(result);
      continue;
    }
    const int64_t size = result.size(dims[i]);
    const int64_t start = ((size - shifts[i]) % size + size) % size;
    result = at::cat({result.narrow(dims[i], start, size - start), result.narrow(dims[i], 0, start)}, dims[i]);
  }
  call.Return(std::move(result));
}

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

// masked_fill(self, mask, value)
void MaskedFill(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  call.Return(NewContiguous(at::infer_size_dimvector(self.sizes(), call.tensor(1).sizes()), self.scalar_type()));
}

// select_backward and slice_backward(grad_output, input_sizes, ...)
void ViewBackward(MetaCall& call) { call.Return(NewContiguous(call.integers(1), call.tensor(0).scalar_type())); }

// scatters of a view into a copy: slice_scatter(self, src, ...), select_scatter, index_put(self, indices, values)
void CopyOfSelf(MetaCall& call) { call.Return(NewLike(call.tensor(0))); }

}  // namespace

const std::vector<OwnMetaRow>& ShapeMetas() {
  static const auto* rows = new std::vector<OwnMetaRow>{
      {"aten::roll", Roll},
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
