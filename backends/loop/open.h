// Open kernels: one text, and one code, for many sizes.
#ifndef FRAMEJIT_BACKENDS_LOOP_OPEN_H_
#define FRAMEJIT_BACKENDS_LOOP_OPEN_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "backends/loop/loop_ir.h"

namespace framejit::loop {

// Which numbers of a kernel become parameters.
struct OpenPlaces {
  struct Along {
    bool size = false;
    bool strides = false;  // but those that are 0: a broadcast is no matter of sizes
  };
  std::vector<Along> dims;  // by dimension
  bool offsets = false;     // but 0
};

struct OpenedKernel {
  Kernel kernel;
  std::vector<int64_t> values;  // by parameter: what it was
};

int64_t ParameterCount(const Kernel& kernel);

// `kernel` is closed.
OpenedKernel Open(const Kernel& kernel, const OpenPlaces& places);

// The kernel for these values, one for each parameter. InvalidArgument: there are more or fewer, or the kernel does not
// verify with them.
absl::StatusOr<Kernel> Close(const Kernel& open, absl::Span<const int64_t> values);

}  // namespace framejit::loop

#endif  // FRAMEJIT_BACKENDS_LOOP_OPEN_H_
