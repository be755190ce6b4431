// Backends over a target: a native graph where the graph can be planned, operator by operator where it cannot.
#ifndef FRAMEJIT_BACKENDS_NATIVE_NATIVE_BACKEND_H_
#define FRAMEJIT_BACKENDS_NATIVE_NATIVE_BACKEND_H_

#include <memory>

#include "backends/backend.h"
#include "backends/native/target.h"

namespace framejit::native {

absl::StatusOr<std::unique_ptr<CompiledGraph>> CompileFor(const Target& target, const CompileRequest& request);

}  // namespace framejit::native

#endif  // FRAMEJIT_BACKENDS_NATIVE_NATIVE_BACKEND_H_
