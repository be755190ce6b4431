// The CPU as a target of native graphs: machine code by asmjit on torch's threads, memory from torch's CPU allocator.
#ifndef FRAMEJIT_BACKENDS_CPU_CPU_TARGET_H_
#define FRAMEJIT_BACKENDS_CPU_CPU_TARGET_H_

#include "backends/native/target.h"

namespace framejit::cpu {

const native::Target& CpuTarget();

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CPU_TARGET_H_
