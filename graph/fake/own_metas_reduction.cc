// Metadata of reductions, sorting and pooling without a C++ Meta kernel.
#include <ATen/WrapDimUtils.h>
#include <ATen/WrapDimUtilsMulti.h>

#include "graph/fake/own_metas.h"

namespace framejit {
namespace {

// The sizes of `self` with `dims` (all, where there are none) reduced.
c10::DimVector Reduced(const at::Tensor& self, const c10::IValue& dims, bool keep) {
  const size_t rank = static_cast<size_t>(self.dim());
  std::bitset<at::dim_bitset_size> mask;
  const bool all = dims.isNone() || dims.toDimVector().empty();
  if (all) {
    mask.flip();
  } else {
    mask = at::dim_list_to_bitset(dims.toDimVector(), self.dim());
  }
  c10::DimVector sizes;
  for (size_t i = 0; i < rank; ++i) {
    if (!mask[i]) {
      sizes.push_back(self.size(static_cast<int64_t>(i)));
    } else if (keep) {
      sizes.push_back(1);
    }
  }
  return sizes;
}

at::ScalarType SumDtype(const at::Tensor& self) {
  return at::isIntegralType(self.scalar_type(), /*includeBool=*/true) ? at::kLong : self.scalar_type();
}

// sum(self, dtype)
void SumAll(MetaCall& call) { call.Return(NewContiguous({}, call.dtype(1, SumDtype(call.tensor(0))))); }
// mean(self, dtype)
void MeanAll(MetaCall& call) {
  const at::ScalarType dtype = call.dtype(1, call.tensor(0).scalar_type());
  TORCH_CHECK(at::isFloatingType(dtype) || at::isComplexType(dtype),
              "mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype");
  call.Return(NewContiguous({}, dtype));
}
// max(self), min(self)
void ExtremumAll(MetaCall& call) {
  TORCH_CHECK(call.tensor(0).numel() > 0, "Expected reduction dim to be specified for input.numel() == 0");
  call.Return(NewContiguous({}, call.tensor(0).scalar_type()));
}

at::ScalarType RealOf(const at::Tensor& self) {
  TORCH_CHECK(at::isFloatingType(self.scalar_type()) || at::isComplexType(self.scalar_type()),
              "std and var only support floating point and complex dtypes");
  return c10::toRealValueType(self.scalar_type());
}
// var.correction(self, dim, correction, keepdim), std.correction
void Var(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  call.Return(NewContiguous(Reduced(self, call[1], call[3].toBool()), RealOf(self)));
}
void VarMean(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  const c10::DimVector sizes = Reduced(self, call[1], call[3].toBool());
  at::Tensor mean = NewContiguous(sizes, self.scalar_type());
  call.Return(NewContiguous(sizes, RealOf(self)), std::move(mean));
}

// dot(self, tensor), vdot
void Dot(MetaCall& call) {
  const at::Tensor &a = call.tensor(0), &b = call.tensor(1);
  TORCH_CHECK(a.dim() == 1 && b.dim() == 1 && a.numel() == b.numel() && a.scalar_type() == b.scalar_type(),
              "dot: expected two 1D tensors of one length and dtype, got ", a.sizes(), " and ", b.sizes());
  call.Return(NewContiguous({}, a.scalar_type()));
}

}  // namespace

const std::vector<OwnMetaRow>& ReductionMetas() {
  static const auto* rows = new std::vector<OwnMetaRow>{
      {"aten::sum", SumAll},
      {"aten::mean", MeanAll},
      {"aten::max", ExtremumAll},
      {"aten::min", ExtremumAll},
      {"aten::var.correction", Var},
      {"aten::std.correction", Var},
      {"aten::var_mean.correction", VarMean},
      {"aten::std_mean.correction", VarMean},
      {"aten::dot", Dot},
  };
  return *rows;
}

}  // namespace framejit
