// Backends over a target: a native graph where the graph can be planned, operator by operator where it cannot.
#ifndef FRAMEJIT_BACKENDS_NATIVE_NATIVE_BACKEND_H_
#define FRAMEJIT_BACKENDS_NATIVE_NATIVE_BACKEND_H_

#include <functional>
#include <memory>

#include "backends/backend.h"
#include "backends/native/executor.h"
#include "backends/native/target.h"

namespace framejit::native {

// `finish`, where it is given, makes what runs of a native graph.
using FinishNativeGraph = std::function<std::unique_ptr<CompiledGraph>(std::unique_ptr<NativeGraph>)>;
absl::StatusOr<std::unique_ptr<CompiledGraph>> CompileFor(const Target& target, const CompileRequest& request,
                                                          const FinishNativeGraph& finish = nullptr);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_NATIVE_BACKEND_H_
