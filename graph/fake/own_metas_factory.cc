// Metadata of operators that make tensors: full, arange, *_like, new_*, random factories, clone, _to_copy.
#include <ATen/ExpandUtils.h>
#include <ATen/MemoryOverlap.h>
#include <c10/core/ScalarTypeToTypeMeta.h>

#include <cmath>

#include "graph/fake/own_metas.h"

namespace framejit {
namespace {

at::ScalarType DefaultDtype() { return c10::typeMetaToScalarType(c10::get_default_dtype()); }

at::MemoryFormat FormatOr(const c10::IValue& value, at::MemoryFormat otherwise) {
  return value.isNone() ? otherwise : value.toMemoryFormat();
}

at::Tensor LikeIn(const at::Tensor& tensor, at::ScalarType dtype, at::MemoryFormat format) {
  return format == at::MemoryFormat::Preserve ? NewLike(tensor, dtype) : NewIn(tensor.sizes(), dtype, format);
}

// name_like(self, [values...], dtype, layout, device, pin_memory, memory_format): dtype is argument kDtype.
template <size_t kDtype>
void Like(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  call.Return(
      LikeIn(self, call.dtype(kDtype, self.scalar_type()), FormatOr(call[kDtype + 4], at::MemoryFormat::Preserve)));
}

// name(size, ..., dtype, ...): size is argument kSize, dtype argument kDtype.
template <size_t kSize, size_t kDtype>
void Sized(MetaCall& call) {
  call.Return(NewContiguous(call.integers(kSize), call.dtype(kDtype, DefaultDtype())));
}

template <size_t kSize, size_t kDtype>
void SizedIntegers(MetaCall& call) {
  call.Return(NewContiguous(call.integers(kSize), call.dtype(kDtype, at::kLong)));
}

// new_name(self, size, ..., dtype, ...).
template <size_t kDtype>
void New(MetaCall& call) {
  call.Return(NewContiguous(call.integers(1), call.dtype(kDtype, call.tensor(0).scalar_type())));
}

// empty(size, dtype, layout, device, pin_memory, memory_format)
void Empty(MetaCall& call) {
  call.Return(NewIn(call.integers(0), call.dtype(1, DefaultDtype()), FormatOr(call[5], at::MemoryFormat::Contiguous)));
}

// empty_strided(size, stride, dtype, ...)
void EmptyStrided(MetaCall& call) {
  call.Return(NewStrided(call.integers(0), call.integers(1), call.dtype(2, DefaultDtype())));
}

// full(size, fill_value, dtype, ...): without a dtype, that of the value.
void Full(MetaCall& call) {
  const c10::Scalar value = call[1].toScalar();
  at::ScalarType inferred = DefaultDtype();
  if (value.isBoolean()) inferred = at::kBool;
  if (value.isIntegral(/*includeBool=*/false)) inferred = at::kLong;
  if (value.isComplex()) inferred = c10::toComplexType(DefaultDtype());
  call.Return(NewContiguous(call.integers(0), call.dtype(2, inferred)));
}

// scalar_tensor(s, dtype, ...)
void ScalarTensor(MetaCall& call) { call.Return(NewContiguous({}, call.dtype(1, DefaultDtype()))); }

int64_t RangeLength(const c10::Scalar& start, const c10::Scalar& end, const c10::Scalar& step, at::ScalarType dtype) {
  TORCH_CHECK(step.toDouble() != 0, "step must be nonzero");
  const double span = end.toDouble() - start.toDouble();
  TORCH_CHECK(span == 0 || (span > 0) == (step.toDouble() > 0),
              "upper bound and lower bound inconsistent with step sign");
  if (dtype != at::kLong) return static_cast<int64_t>(std::ceil(span / step.toDouble()));
  const int64_t by = step.to<int64_t>();
  TORCH_CHECK(by != 0, "step must be nonzero");
  const int64_t sign = by > 0 ? 1 : -1;
  return (end.to<int64_t>() - start.to<int64_t>() + by - sign) / by;
}

void Range(MetaCall& call, const c10::Scalar& start, const c10::Scalar& end, const c10::Scalar& step, size_t dtype_at) {
  const bool integral = start.isIntegral(true) && end.isIntegral(true) && step.isIntegral(true);
  const at::ScalarType dtype = call.dtype(dtype_at, integral ? at::kLong : DefaultDtype());
  call.Return(NewContiguous({RangeLength(start, end, step, dtype)}, dtype));
}

void Arange(MetaCall& call) { Range(call, 0, call[0].toScalar(), 1, 1); }
void ArangeStart(MetaCall& call) { Range(call, call[0].toScalar(), call[1].toScalar(), 1, 2); }
void ArangeStep(MetaCall& call) { Range(call, call[0].toScalar(), call[1].toScalar(), call[2].toScalar(), 3); }

// linspace(start, end, steps, dtype, ...)
void Linspace(MetaCall& call) {
  const bool is_complex = call[0].toScalar().isComplex() || call[1].toScalar().isComplex();
  const at::ScalarType inferred = is_complex ? c10::toComplexType(DefaultDtype()) : DefaultDtype();
  call.Return(NewContiguous({call.integer(2)}, call.dtype(3, inferred)));
}

void Eye(MetaCall& call) {
  call.Return(NewContiguous({call.integer(0), call.integer(0)}, call.dtype(1, DefaultDtype())));
}
void EyeM(MetaCall& call) {
  call.Return(NewContiguous({call.integer(0), call.integer(1)}, call.dtype(2, DefaultDtype())));
}

void Randperm(MetaCall& call) { call.Return(NewContiguous({call.integer(0)}, call.dtype(1, at::kLong))); }

// clone(self, memory_format)
void Clone(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  call.Return(LikeIn(self, self.scalar_type(), FormatOr(call[1], at::MemoryFormat::Preserve)));
}

// _to_copy(self, dtype, layout, device, pin_memory, non_blocking, memory_format)
void ToCopy(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  call.Return(LikeIn(self, call.dtype(1, self.scalar_type()), FormatOr(call[6], at::MemoryFormat::Preserve)));
}

// copy_(self, src, non_blocking)
void Copy(MetaCall& call) {
  at::Tensor self = call.tensor(0);
  const at::Tensor& source = call.tensor(1);
  const bool is_same = self.is_alias_of(source) && self.storage_offset() == source.storage_offset() &&
                       self.sizes() == source.sizes() && self.strides() == source.strides();
  if (!is_same) {
    at::assert_no_internal_overlap(self);
    at::assert_no_partial_overlap(self, source);
  }
  const c10::DimVector joint = at::infer_size_dimvector(self.sizes(), source.sizes());
  TORCH_CHECK(at::IntArrayRef(joint) == self.sizes(), "output with shape ", self.sizes(),
              " doesn't match the broadcast shape ", at::IntArrayRef(joint));
  call.Return(std::move(self));
}

}  // namespace

const std::vector<OwnMetaRow>& FactoryMetas() {
  static const auto* rows = new std::vector<OwnMetaRow>{
      {"aten::empty_like", Like<1>},
      {"aten::zeros_like", Like<1>},
      {"aten::ones_like", Like<1>},
      {"aten::rand_like", Like<1>},
      {"aten::randn_like", Like<1>},
      {"aten::full_like", Like<2>},
      {"aten::randint_like", Like<2>},
      {"aten::randint_like.low_dtype", Like<3>},
      {"aten::new_empty", New<2>},
      {"aten::new_zeros", New<2>},
      {"aten::new_ones", New<2>},
      {"aten::new_full", New<3>},
      {"aten::empty.memory_format", Empty},
      {"aten::empty_strided", EmptyStrided},
      {"aten::zeros", Sized<0, 1>},
      {"aten::ones", Sized<0, 1>},
      {"aten::rand", Sized<0, 1>},
      {"aten::randn", Sized<0, 1>},
      {"aten::rand.generator", Sized<0, 2>},
      {"aten::randn.generator", Sized<0, 2>},
      {"aten::randint", SizedIntegers<1, 2>},
      {"aten::randint.low", SizedIntegers<2, 3>},
      {"aten::randint.generator", SizedIntegers<1, 3>},
      {"aten::randint.low_generator", SizedIntegers<2, 4>},
      {"aten::randperm", Randperm},
      {"aten::full", Full},
      {"aten::scalar_tensor", ScalarTensor},
      {"aten::arange", Arange},
      {"aten::arange.start", ArangeStart},
      {"aten::arange.start_step", ArangeStep},
      {"aten::linspace", Linspace},
      {"aten::eye", Eye},
      {"aten::eye.m", EyeM},
      {"aten::clone", Clone},
      {"aten::_to_copy", ToCopy},
      {"aten::copy_", Copy},
  };
  return *rows;
}

}  // namespace framejit
