// Metadata of scans, histograms and QR factors, and of composite operators that are recorded as one because they look
// at data for checks alone or read memory themselves (graph/capture/callables.def, TorchLeaf).
#include <ATen/WrapDimUtils.h>
#include <ATen/native/Pool.h>

#include "graph/fake/own_metas.h"

namespace framejit {
namespace {

// cummax(self, dim), cummin
void CumulativeExtremum(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  c10::maybe_wrap_dim(call.integer(1), self.dim());
  call.Return(NewContiguous(self.sizes(), self.scalar_type()), NewContiguous(self.sizes(), at::kLong));
}

// logcumsumexp(self, dim)
void LogCumulativeSum(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  c10::maybe_wrap_dim(call.integer(1), self.dim());
  call.Return(NewContiguous(self.sizes(), self.scalar_type()));
}

// geqrf(self): the factor is column-major, as LAPACK wrote it.
void Geqrf(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  TORCH_CHECK(self.dim() >= 2, "torch.geqrf: input must have at least 2 dimensions.");
  c10::DimVector sizes(self.sizes());
  const int64_t rows = self.size(-2), columns = self.size(-1);
  std::swap(sizes[sizes.size() - 1], sizes[sizes.size() - 2]);
  at::Tensor factor = NewContiguous(sizes, self.scalar_type()).transpose(-2, -1);
  sizes.pop_back();
  sizes.back() = std::min(rows, columns);
  call.Return(std::move(factor), NewContiguous(sizes, self.scalar_type()));
}

// histogram.bin_ct(self, bins, ...)
void Histogram(MetaCall& call) {
  const at::ScalarType dtype = call.tensor(0).scalar_type();
  call.Return(NewContiguous({call.integer(1)}, dtype), NewContiguous({call.integer(1) + 1}, dtype));
}
// histogram.bins_tensor(self, bins, ...)
void HistogramOfEdges(MetaCall& call) {
  const at::ScalarType dtype = call.tensor(0).scalar_type();
  const at::Tensor& bins = call.tensor(1);
  TORCH_CHECK(bins.dim() == 1 && bins.numel() > 0, "torch.histogram(): bins tensor should have one dimension");
  call.Return(NewContiguous({bins.numel() - 1}, dtype), NewContiguous(bins.sizes(), dtype));
}
// _histogramdd_bin_edges(self, bins, ...)
void HistogramEdges(MetaCall& call) {
  c10::List<at::Tensor> edges;
  for (const int64_t bins : call.integers(1)) edges.push_back(NewContiguous({bins + 1}, call.tensor(0).scalar_type()));
  call.Return(std::move(edges));
}
// _histogramdd_from_bin_cts(self, bins, ...)
void HistogramOfCounts(MetaCall& call) { call.Return(NewContiguous(call.integers(1), call.tensor(0).scalar_type())); }
// _histogramdd_from_bin_tensors(self, bins, ...)
void HistogramOfTensors(MetaCall& call) {
  c10::DimVector sizes;
  for (const at::Tensor& bins : call[1].toTensorVector()) sizes.push_back(bins.numel() - 1);
  call.Return(NewContiguous(sizes, call.tensor(0).scalar_type()));
}

bool IsComplex(const c10::IValue& bound) {
  return bound.isTensor() ? bound.toTensor().is_complex() : bound.toScalar().isComplex();
}
// linspace(start, end, steps, dtype, ...) with tensors, logspace(start, end, steps, base, dtype, ...)
template <size_t kDtype>
void Spaced(MetaCall& call) {
  for (size_t i = 0; i < 2; ++i) {
    TORCH_CHECK(!call[i].isTensor() || call.tensor(i).dim() == 0, "linspace and logspace only support 0-dimensional ",
                "start and end tensors");
  }
  TORCH_CHECK(call.integer(2) >= 0, "number of steps must be non-negative");
  const at::ScalarType real = c10::typeMetaToScalarType(c10::get_default_dtype());
  const at::ScalarType otherwise = IsComplex(call[0]) || IsComplex(call[1]) ? c10::toComplexType(real) : real;
  call.Return(NewContiguous({call.integer(2)}, call.dtype(kDtype, otherwise)));
}

// The same with out=, which has to fit.
template <size_t kOut>
void SpacedOut(MetaCall& call) {
  at::Tensor out = call.tensor(kOut);
  TORCH_CHECK(out.numel() == call.integer(2), "framejit: out= of another size");
  call.Return(std::move(out));
}

// mode.values(self, dim, keepdim, values, indices)
void ModeOut(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  at::Tensor values = call.tensor(3), indices = call.tensor(4);
  c10::DimVector sizes(self.sizes());
  if (!sizes.empty()) {
    const auto dim = static_cast<size_t>(c10::maybe_wrap_dim(call.integer(1), self.dim()));
    if (call[2].toBool()) {
      sizes[dim] = 1;
    } else {
      sizes.erase(sizes.begin() + static_cast<std::ptrdiff_t>(dim));
    }
  }
  TORCH_CHECK(values.sizes() == sizes && indices.sizes() == sizes && values.scalar_type() == self.scalar_type() &&
                  indices.scalar_type() == at::kLong,
              "framejit: out= of another size or dtype");
  call.Return(std::move(values), std::move(indices));
}

// one_hot(self, num_classes)
void OneHot(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  TORCH_CHECK(self.scalar_type() == at::kLong, "one_hot is only applicable to index tensor of type LongTensor.");
  TORCH_CHECK(call.integer(1) > 0, "framejit: the data of a tensor says how many classes there are");
  c10::DimVector sizes(self.sizes());
  sizes.push_back(call.integer(1));
  call.Return(NewContiguous(sizes, at::kLong));
}

// max_pool1d(self, kernel_size, stride, padding, dilation, ceil_mode) without a gradient
void MaxPool(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  TORCH_CHECK(self.dim() == 2 || self.dim() == 3, "max_pool1d() Expected 2D or 3D input tensor, but got ",
              self.sizes());
  const c10::DimVector kernel = call.integers(1), stride = call.integers(2), padding = call.integers(3),
                       dilation = call.integers(4);
  TORCH_CHECK(kernel.size() == 1 && stride.size() <= 1 && padding.size() == 1 && dilation.size() == 1,
              "max_pool1d() takes one number each");
  const int64_t step = stride.empty() ? kernel[0] : stride[0];
  TORCH_CHECK(kernel[0] > 0 && step > 0 && dilation[0] > 0 && padding[0] >= 0 && padding[0] <= kernel[0] / 2,
              "max_pool1d(): invalid kernel_size, stride, padding or dilation");
  c10::DimVector sizes(self.sizes());
  sizes.back() =
      at::native::pooling_output_shape(sizes.back(), kernel[0], padding[0], step, dilation[0], call[5].toBool());
  TORCH_CHECK(sizes.back() > 0, "max_pool1d() Invalid computed output size: ", sizes.back());
  call.Return(NewContiguous(sizes, self.scalar_type()));
}

// ctc_loss.IntList and ctc_loss.Tensor(log_probs, targets, input_lengths, target_lengths, blank, reduction, ...)
void CtcLoss(MetaCall& call) {
  const at::Tensor& log_probs = call.tensor(0);
  c10::DimVector sizes;
  if (call.integer(5) == 0 && log_probs.dim() == 3) sizes.push_back(log_probs.size(1));
  call.Return(NewContiguous(sizes, log_probs.scalar_type()));
}

// fake_quantize_per_tensor_affine_cachemask(self, ...) and its kin: the result, and what the backward lets through
void FakeQuantize(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  call.Return(NewLike(self), NewLike(self, at::kBool));
}

// cov(self, ...), corrcoef(self)
void Covariance(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  TORCH_CHECK(self.dim() <= 2, "cov(): expected input to have two or fewer dimensions");
  TORCH_CHECK(self.scalar_type() != at::kBool && self.numel() > 0, "framejit: cov() of bool or of nothing");
  const bool integral = at::isIntegralType(self.scalar_type(), /*includeBool=*/true);
  const at::ScalarType dtype = integral ? c10::typeMetaToScalarType(c10::get_default_dtype()) : self.scalar_type();
  const int64_t variables = self.dim() < 2 ? 1 : self.size(0);
  c10::DimVector sizes;
  if (variables > 1) sizes = {variables, variables};
  call.Return(NewContiguous(sizes, dtype));
}

}  // namespace

const std::vector<OwnMetaRow>& StatisticsMetas() {
  static const auto* rows = new std::vector<OwnMetaRow>{
      {"aten::cummax", CumulativeExtremum},
      {"aten::cummin", CumulativeExtremum},
      {"aten::logcumsumexp", LogCumulativeSum},
      {"aten::geqrf", Geqrf},
      {"aten::histogram.bin_ct", Histogram},
      {"aten::histogram.bins_tensor", HistogramOfEdges},
      {"aten::_histogramdd_bin_edges", HistogramEdges},
      {"aten::_histogramdd_from_bin_cts", HistogramOfCounts},
      {"aten::_histogramdd_from_bin_tensors", HistogramOfTensors},
      {"aten::linspace.Tensor_Tensor", Spaced<3>},
      {"aten::linspace.Tensor_Scalar", Spaced<3>},
      {"aten::linspace.Scalar_Tensor", Spaced<3>},
      {"aten::logspace.Tensor_Tensor", Spaced<4>},
      {"aten::logspace.Tensor_Scalar", Spaced<4>},
      {"aten::logspace.Scalar_Tensor", Spaced<4>},
      {"aten::linspace.Tensor_Tensor_out", SpacedOut<3>},
      {"aten::linspace.Tensor_Scalar_out", SpacedOut<3>},
      {"aten::linspace.Scalar_Tensor_out", SpacedOut<3>},
      {"aten::logspace.Tensor_Tensor_out", SpacedOut<4>},
      {"aten::logspace.Tensor_Scalar_out", SpacedOut<4>},
      {"aten::logspace.Scalar_Tensor_out", SpacedOut<4>},
      {"aten::mode.values", ModeOut},
      {"aten::one_hot", OneHot},
      {"aten::max_pool1d", MaxPool},
      {"aten::ctc_loss.IntList", CtcLoss},
      {"aten::ctc_loss.Tensor", CtcLoss},
      {"aten::fake_quantize_per_tensor_affine_cachemask", FakeQuantize},
      {"aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams", FakeQuantize},
      {"aten::fake_quantize_per_channel_affine_cachemask", FakeQuantize},
      {"aten::cov", Covariance},
      {"aten::corrcoef", Covariance},
  };
  return *rows;
}

}  // namespace framejit
