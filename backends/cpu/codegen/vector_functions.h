// Functions on whole vectors from SLEEF, which torch's CPU library contains and eager mode computes with.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_VECTOR_FUNCTIONS_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_VECTOR_FUNCTIONS_H_

#include "backends/loop/loop_ir.h"

namespace framejit::cpu {

// A C function from one vector register, or two, to one: of 64 bytes with AVX-512 (`wide`), 32 without. nullptr where
// SLEEF has no such function, or is not in this process (the references are weak).
const void* FindVectorFunction(loop::Op op, loop::DType dtype, bool wide);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_VECTOR_FUNCTIONS_H_
