#include "graph/fake/probed_layouts.h"

#include <ATen/core/List.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <utility>

#include "graph/fake/fake_session.h"
#include "graph/fake/own_metas.h"
#include "graph/fake/recording.h"

namespace framejit {
namespace {

at::Tensor Zeros(const at::Tensor& shadow) {
  if (!shadow.defined() || !shadow.is_meta()) return shadow;
  at::Tensor zeros = at::empty_strided(shadow.sizes(), shadow.strides(), shadow.options().device(c10::kCPU));
  return zeros.zero_();
}

template <typename Element>
void FillList(c10::IValue& list) {
  c10::List<Element> filled;
  for (const c10::IValue& item : list.toListRef()) {
    filled.push_back(item.isTensor() ? Element(Zeros(item.toTensor())) : Element());
  }
  list = std::move(filled);
}

void Fill(c10::IValue& value) {
  if (value.isTensor()) {
    value = Zeros(value.toTensor());
  } else if (value.isTensorList()) {
    FillList<at::Tensor>(value);
  } else if (value.isOptionalTensorList()) {
    FillList<std::optional<at::Tensor>>(value);
  }
}

}  // namespace

void ProbeLayouts(const c10::OperatorHandle& op, torch::jit::Stack arguments, c10::ArrayRef<c10::IValue*> results) {
  FakeSession::Pause pause;
  c10::impl::ExcludeDispatchKeyGuard guard(kAboveMetadata);
  try {
    for (c10::IValue& argument : arguments) Fill(argument);
    op.callBoxed(&arguments);
  } catch (const std::exception&) {
    return;
  }
  if (arguments.size() != results.size()) return;
  for (size_t i = 0; i < results.size(); ++i) {
    if (!results[i]->isTensor() || !arguments[i].isTensor()) continue;
    const at::Tensor &shadow = results[i]->toTensor(), &made = arguments[i].toTensor();
    if (!shadow.defined() || !made.defined() || made.sizes() != shadow.sizes() || made.strides() == shadow.strides())
      continue;
    *results[i] = NewStrided(made.sizes(), made.strides(), shadow.scalar_type());
  }
}

}  // namespace framejit
