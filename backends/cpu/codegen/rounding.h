// What casts to narrow floats have to do, found from the kernel once: registers hold narrow floats as f32, so that a
// cast of what is such a number already is nothing, and one that is only stored need not clear what the store drops.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_ROUNDING_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_ROUNDING_H_

#include <cstdint>
#include <vector>

#include "backends/loop/loop_ir.h"

namespace framejit::cpu {

struct Rounding {
  enum class Kind : uint8_t {
    kNone,    // the operand, as f32, is a number of the type
    kStored,  // the result is read by stores alone
    kFull,
  };
  Kind kind = Kind::kFull;
  // Every NaN of the operand, as f32, has zeros in its lower half: adding half a unit of bfloat16 leaves it a NaN.
  bool short_nans = false;
};

// By ValueId; of use for casts to narrow floats alone.
std::vector<Rounding> FindRoundings(const loop::Kernel& kernel);
// By ValueId: read by casts to bfloat16 alone, so that functions need no more digits than that has.
std::vector<bool> FindReadAsBFloat16(const loop::Kernel& kernel);

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_ROUNDING_H_
