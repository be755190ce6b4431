// Finds kernels that were registered with the dispatcher but replaced: importing torch overrides some 640 C++ Meta
// kernels with Python ones, and the replaced entries stay in the operator's private kernel table. The only file with
// private access to torch is kernel_access.cc.
#ifndef FRAMEJIT_GRAPH_FAKE_KERNEL_ACCESS_H_
#define FRAMEJIT_GRAPH_FAKE_KERNEL_ACCESS_H_

#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/dispatch/Dispatcher.h>

namespace framejit {

// The C++ kernel (active or replaced) that `op` has for `key` or, for alias keys, was registered with; null where there
// is none. Valid as long as the operator is.
const c10::KernelFunction* FindCppKernel(const c10::OperatorHandle& op, c10::DispatchKey key);

// True where private access works with the torch that runs; checked once. Where it does not, FindCppKernel finds
// nothing and metadata comes from the dispatcher: slower, the same results.
bool KernelAccessWorks();

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_KERNEL_ACCESS_H_
