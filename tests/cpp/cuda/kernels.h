// Kernels that the tests of the CUDA code generator share: each shape of launch, each operator, each type.
#ifndef FRAMEJIT_TESTS_CPP_CUDA_KERNELS_H_
#define FRAMEJIT_TESTS_CPP_CUDA_KERNELS_H_

#include <string>
#include <vector>

#include "backends/loop/loop_ir.h"

namespace framejit::testing {

struct NamedKernel {
  std::string name;
  loop::Kernel kernel;  // canonical
};

// Every scalar operator on every type it takes, over vectors with a tail.
std::vector<NamedKernel> OperatorKernels();
// Casts between all types.
std::vector<NamedKernel> CastKernels();
// Broadcast, strided, transposed, permuted and misaligned memory.
std::vector<NamedKernel> LayoutKernels();
// Rows of all lengths from one lane to a block of lanes, softmax and norms, columns, whole tensors.
std::vector<NamedKernel> ReductionKernels();
// So many elements that each thread takes several vectors: whole blocks, and a part of the last one.
std::vector<NamedKernel> LongKernels();

}  // namespace framejit::testing

#endif  // FRAMEJIT_TESTS_CPP_CUDA_KERNELS_H_
