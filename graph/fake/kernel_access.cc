// See the header. Compiled with -fno-access-control and without the shared precompiled header. Mirrors
// aten/src/ATen/core/dispatch/OperatorEntry.h (torch 2.11 to 2.14): kernels_ maps a key to its registrations, newest
// first.
#include "graph/fake/kernel_access.h"

namespace framejit {
namespace {

const c10::KernelFunction* Find(const c10::OperatorHandle& op, c10::DispatchKey key) {
  const auto& kernels = op.operatorDef_->op.kernels_;
  auto it = kernels.find(key);
  if (it == kernels.end()) return nullptr;
  for (const auto& annotated : it->second) {
    if (annotated.kernel.isValidUnboxed() || annotated.kernel.isValidSymUnboxed()) return &annotated.kernel;
  }
  return nullptr;
}

// aten::add.Tensor has a C++ Meta kernel in every supported torch; the layout is as mirrored where it is found and is
// unlike the kernel of a key that nobody registers.
bool Check() {
  auto op = c10::Dispatcher::singleton().findSchema({"aten::add", "Tensor"});
  return op && op->operatorDef_->op.hasSchema() && &op->operatorDef_->op.schema() == &op->schema() &&
         Find(*op, c10::DispatchKey::Meta) != nullptr && Find(*op, c10::DispatchKey::PrivateUse3) == nullptr;
}

}  // namespace

bool KernelAccessWorks() {
  static const bool works = Check();
  return works;
}

const c10::KernelFunction* FindCppKernel(const c10::OperatorHandle& op, c10::DispatchKey key) {
  return KernelAccessWorks() ? Find(op, key) : nullptr;
}

}  // namespace framejit
