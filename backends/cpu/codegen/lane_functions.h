// Functions that generated code calls for a whole vector of lanes in memory, where no vector instruction sequence
// exists: functions that are not SLEEF's either (vector_functions.h), or in processes without it, and on AVX2
// conversions between i64 and floating types.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_LANE_FUNCTIONS_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_LANE_FUNCTIONS_H_

#include <cstdint>

#include "backends/loop/loop_ir.h"

namespace framejit::cpu {

// Replaces x[i] by f(x[i]) (or f(x[i], y[i])) for i < lanes. A conversion's result may be wider than its operand: the
// array has room for it.
using LaneFunction = void (*)(void* x, const void* y, int64_t lanes);

// nullptr when there is none.
LaneFunction FindLaneFunction(loop::Op op, loop::DType dtype);
LaneFunction FindLaneConversion(loop::DType from, loop::DType to);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_LANE_FUNCTIONS_H_
