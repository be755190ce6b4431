// Cuts a kernel at its reductions into kernels that run one after the other, with row values in temporary memory
// between them. Each then walks memory in the order that suits it, and long rows are reduced in pieces, by several
// threads.
#ifndef FRAMEJIT_BACKENDS_LOOP_SPLIT_H_
#define FRAMEJIT_BACKENDS_LOOP_SPLIT_H_

#include <vector>

#include "absl/status/statusor.h"
#include "backends/loop/loop_ir.h"

namespace framejit::loop {

struct SplitKernel {
  struct Part {
    Kernel kernel;
    std::vector<int32_t> buffers;  // by buffer: that of the whole kernel, or its buffer count plus a temporary's number
  };
  struct Temporary {
    DType dtype = DType::kFloat32;
    int64_t elements = 0;
  };
  std::vector<Part> parts;  // in order
  std::vector<Temporary> temporaries;
};

// Into how many pieces a long row is cut, `most` of them or fewer and each of `shortest` elements or more; 0 where its
// length allows none.
int64_t PiecesOfRow(int64_t inner_size, int64_t most = 64, int64_t shortest = 2048);

// How many times the kernel walks its inner dimension.
int PassCount(const Kernel& kernel);

// `pieces`: a divisor of the inner size; 1 leaves rows whole.
absl::StatusOr<SplitKernel> Split(const Kernel& kernel, int64_t pieces);

}  // namespace framejit::loop

#endif  // FRAMEJIT_BACKENDS_LOOP_SPLIT_H_
