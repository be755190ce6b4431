// Runs a kernel node by node: the oracle of the code generators' tests. Slow and simple on purpose.
#ifndef FRAMEJIT_BACKENDS_LOOP_INTERPRET_H_
#define FRAMEJIT_BACKENDS_LOOP_INTERPRET_H_

#include "backends/loop/loop_ir.h"

namespace framejit::loop {

enum class Precision : uint8_t {
  kAsTyped,  // every operation rounds to its type, reductions in sequence
  kExact,    // floating point in long double; rounds at casts to narrow types and at stores only
};

// buffers[i] belongs to kernel.buffers[i]; the kernel must verify.
void Interpret(const Kernel& kernel, void* const* buffers, Precision precision = Precision::kAsTyped);

// Storage conversions, round to nearest even; NaN stays NaN.
uint16_t FloatToBFloat16(float value);
float BFloat16ToFloat(uint16_t bits);
uint16_t FloatToFloat16(float value);
float Float16ToFloat(uint16_t bits);

}  // namespace framejit::loop

#endif  // FRAMEJIT_BACKENDS_LOOP_INTERPRET_H_
