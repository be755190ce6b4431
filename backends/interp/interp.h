// The `interp` backend: executes a graph node by node through the dispatcher. The oracle of every differential test, so
// it optimises nothing.
#ifndef FRAMEJIT_BACKENDS_INTERP_INTERP_H_
#define FRAMEJIT_BACKENDS_INTERP_INTERP_H_

#include <memory>

#include "backends/backend.h"

namespace framejit {

std::shared_ptr<Backend> MakeInterpBackend();

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_INTERP_INTERP_H_
