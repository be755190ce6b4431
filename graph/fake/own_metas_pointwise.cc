// Metadata of pointwise operators whose C++ Meta kernel is missing. TensorIterator itself allocates the result where
// the operands are not plain, so broadcasting and strides are eager's.
#include <ATen/MemoryOverlap.h>
#include <ATen/TensorIterator.h>
#include <ATen/native/TypeProperties.h>

#include "absl/container/flat_hash_set.h"
#include "graph/fake/own_metas.h"

namespace framejit {
namespace {

at::Tensor Iterate(std::initializer_list<const at::Tensor*> inputs, at::ScalarType dtype) {
  const at::Tensor& first = **inputs.begin();
  bool plain = true;
  for (const at::Tensor* input : inputs) plain = plain && input->sizes() == first.sizes() && input->is_contiguous();
  if (plain) return NewContiguous(first.sizes(), dtype);
  at::TensorIteratorConfig config;
  config.check_all_same_dtype(false).allow_cpu_scalars(true).add_owned_output(at::Tensor());
  config.declare_static_dtype_and_device(dtype, c10::kMeta);
  for (const at::Tensor* input : inputs) config.add_owned_const_input(*input);
  return config.build().output();
}

at::ScalarType Promoted(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() == b.scalar_type()) return a.scalar_type();
  at::native::ResultTypeState state = at::native::update_result_type_state(a, {});
  return at::native::result_type(at::native::update_result_type_state(b, state));
}

void Unary(MetaCall& call) { call.Return(Iterate({&call.tensor(0)}, call.tensor(0).scalar_type())); }
void UnaryPredicate(MetaCall& call) { call.Return(Iterate({&call.tensor(0)}, at::kBool)); }
void BinaryPredicate(MetaCall& call) { call.Return(Iterate({&call.tensor(0), &call.tensor(1)}, at::kBool)); }

// floor_divide(self, other), for which torch's own Meta kernel makes another layout than its kernels do.
void FloorDivide(MetaCall& call) {
  const at::Tensor &self = call.tensor(0), &other = call.tensor(1);
  call.Return(Iterate({&self, &other}, Promoted(self, other)));
}

void Abs(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  call.Return(Iterate({&self}, c10::toRealValueType(self.scalar_type())));
}

// where(condition, self, other)
void Where(MetaCall& call) {
  const at::Tensor &condition = call.tensor(0), &self = call.tensor(1), &other = call.tensor(2);
  call.Return(Iterate({&condition, &self, &other}, Promoted(self, other)));
}

// In-place operators whose result is their first argument as it is.
void ReturnSelf(MetaCall& call) {
  at::Tensor self = call.tensor(0);
  call.Return(std::move(self));
}

// The same, where the kernel refuses to write memory that several elements are in.
void ReturnDisjointSelf(MetaCall& call) {
  at::assert_no_internal_overlap(call.tensor(0));
  ReturnSelf(call);
}

// masked_fill_(self, mask, value)
void MaskedFill(MetaCall& call) {
  at::assert_no_partial_overlap(call.tensor(0), call.tensor(1));
  ReturnSelf(call);
}

// index_put_(self, indices, values, ...)
void IndexPut(MetaCall& call) {
  at::assert_no_overlap(call.tensor(0), call.tensor(2));
  for (const c10::IValue& index : call[1].toListRef()) {
    if (index.isTensor() && index.toTensor().defined()) at::assert_no_overlap(call.tensor(0), index.toTensor());
  }
  ReturnSelf(call);
}

// native_dropout(input, p, train) -> (output, mask)
void NativeDropout(MetaCall& call) {
  const at::Tensor& self = call.tensor(0);
  at::Tensor mask = Iterate({&self}, at::kBool);
  call.Return(Iterate({&self}, self.scalar_type()), std::move(mask));
}

}  // namespace

bool KeepsPlainLayout(const c10::OperatorName& name) {
  static const auto* names = new absl::flat_hash_set<c10::OperatorName>{
      {"aten::add", "Tensor"},
      {"aten::sub", "Tensor"},
      {"aten::mul", "Tensor"},
      {"aten::div", "Tensor"},
      {"aten::pow", "Tensor_Scalar"},
      {"aten::maximum", ""},
      {"aten::minimum", ""},
      {"aten::abs", ""},
      {"aten::cos", ""},
      {"aten::erf", ""},
      {"aten::exp", ""},
      {"aten::gelu", ""},
      {"aten::hardswish", ""},
      {"aten::log", ""},
      {"aten::neg", ""},
      {"aten::reciprocal", ""},
      {"aten::relu", ""},
      {"aten::rsqrt", ""},
      {"aten::sigmoid", ""},
      {"aten::silu", ""},
      {"aten::sin", ""},
      {"aten::sqrt", ""},
      {"aten::tanh", ""},
  };
  return names->contains(name);
}

const std::vector<OwnMetaRow>& PointwiseMetas() {
  static const auto* rows = new std::vector<OwnMetaRow>{
      {"aten::relu", Unary},
      {"aten::relu_", ReturnDisjointSelf},
      {"aten::hardswish", Unary},
      {"aten::hardtanh", Unary},
      {"aten::hardtanh_", ReturnDisjointSelf},
      {"aten::isnan", UnaryPredicate},
      {"aten::isinf", UnaryPredicate},
      {"aten::logical_not", UnaryPredicate},
      {"aten::logical_and", BinaryPredicate},
      {"aten::logical_or", BinaryPredicate},
      {"aten::logical_xor", BinaryPredicate},
      {"aten::abs", Abs},
      {"aten::floor_divide", FloorDivide},
      {"aten::where.self", Where},
      {"aten::native_dropout", NativeDropout},
      {"aten::index_put_", IndexPut},
      {"aten::_index_put_impl_", IndexPut},
      {"aten::uniform_", ReturnDisjointSelf},
      {"aten::normal_", ReturnDisjointSelf},
      {"aten::bernoulli_.float", ReturnDisjointSelf},
      {"aten::masked_fill_.Scalar", MaskedFill},
      {"aten::masked_fill_.Tensor", MaskedFill},
      {"aten::fill_.Scalar", ReturnSelf},
      {"aten::fill_.Tensor", ReturnSelf},
      {"aten::zero_", ReturnSelf},
  };
  return *rows;
}

}  // namespace framejit
