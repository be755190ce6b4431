// RecordPlainCall; see the header.
#include "graph/fake/plain_call.h"

#include <c10/core/impl/LocalDispatchKeySet.h>

#include <utility>

#include "graph/fake/op_info.h"
#include "graph/fake/recording.h"

namespace framejit {
namespace {

// The fake behind an operand that a call may be recorded of; null otherwise. A tensor without metadata of autograd's
// neither requires a gradient nor has a tangent.
const FakeTensorImpl* PlainOperand(const at::Tensor& tensor, const FakeRecording& recording) {
  if (!tensor.defined()) return nullptr;
  const FakeTensorImpl* fake = AsFake(tensor);
  const bool is_plain = fake != nullptr && fake->recording_serial() == recording.serial() &&
                        fake->autograd_meta() == nullptr && IsPlain(*fake);
  return is_plain ? fake : nullptr;
}

// Whether the dispatcher would come to the recording's fallback at once, or after autograd, which has nothing to do.
// Autocast, transforms, modes and tracers have keys of their own.
bool ComesToRecording(c10::DispatchKeySet keys) {
  const c10::impl::LocalDispatchKeySet local = c10::impl::tls_local_dispatch_key_set();
  keys = (keys | local.included_) - local.excluded_ - c10::autograd_dispatch_keyset_with_ADInplaceOrView;
  return keys.highestPriorityTypeId() == c10::DispatchKey::Fake;
}

}  // namespace

bool IsPlain(const FakeTensorImpl& fake) {
  if (fake.dim() == 0 || !at::isFloatingType(c10::typeMetaToScalarType(fake.dtype())) || fake.is_neg()) return false;
  int64_t expected = 1;
  for (int64_t d = fake.dim(); d-- > 0;) {
    const int64_t size = fake.sizes()[static_cast<size_t>(d)];
    if (fake.strides()[static_cast<size_t>(d)] != expected || size == 0 || (size == 1 && d > 0)) return false;
    expected *= size;
  }
  return true;
}

bool IsLikePlain(const FakeTensorImpl& fake, const FakeTensorImpl& plain) {
  return fake.sizes() == plain.sizes() && fake.strides() == plain.strides() && fake.dtype() == plain.dtype() &&
         fake.device() == plain.device() && !fake.is_neg();
}

at::Tensor RecordPlainCall(const c10::OperatorHandle& op, const at::Tensor& self, const c10::IValue& other) {
  FakeRecording* recording = FakeRecording::Current();
  const OpInfo& info = OpInfoOf(op);
  if (recording == nullptr || !info.keeps_plain_layout) return {};
  const FakeTensorImpl* fake = PlainOperand(self, *recording);
  if (fake == nullptr) return {};
  c10::DispatchKeySet keys = fake->key_set();
  const FakeTensorImpl* second = nullptr;
  if (other.isTensor()) {
    second = PlainOperand(other.toTensor(), *recording);
    if (second == nullptr || !IsLikePlain(*second, *fake)) return {};
    keys = keys | second->key_set();
  } else if (!other.isInt() && !other.isDouble()) {
    return {};
  }
  if (!ComesToRecording(keys)) return {};

  const auto& arguments = op.schema().arguments();
  Node node{op};
  node.location = recording->location;
  node.torch_call = recording->torch_call;
  node.operands.resize(arguments.size());
  node.operands[0].kind = node.operands[1].kind = Operand::Kind::kValue;
  node.operands[0].value = fake->value();
  node.operands[1].value = second != nullptr ? second->value() : recording->NumberConstant(other.toScalar());
  for (size_t i = 2; i < arguments.size(); ++i) node.operands[i].constant = *arguments[i].default_value();
  at::Tensor result = FakeTensorImpl::NewLike(*fake, *recording);
  node.outputs.push_back(recording->NewValue(*AsFake(result)));
  recording->graph.nodes.push_back(std::move(node));
  return result;
}

}  // namespace framejit
