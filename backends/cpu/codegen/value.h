// How the code generator holds values in registers.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_VALUE_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_VALUE_H_

#include "backends/cpu/codegen/simd.h"
#include "backends/loop/loop_ir.h"

namespace framejit::cpu {

// The type a value has in registers: narrow floats are held as f32 already rounded to them, narrow integers as i32
// already wrapped, bool as a 32-bit mask.
inline loop::DType RegisterType(loop::DType dtype) {
  switch (dtype) {
    case loop::DType::kFloat16:
    case loop::DType::kBFloat16:
      return loop::DType::kFloat32;
    case loop::DType::kUInt8:
    case loop::DType::kInt8:
    case loop::DType::kInt16:
      return loop::DType::kInt32;
    case loop::DType::kBool:
    case loop::DType::kInt32:
    case loop::DType::kInt64:
    case loop::DType::kFloat32:
    case loop::DType::kFloat64:
      return dtype;
  }
  return dtype;
}

inline bool Is64(loop::DType dtype) { return dtype == loop::DType::kInt64 || dtype == loop::DType::kFloat64; }
inline int RegisterCount(loop::DType dtype) { return Is64(dtype) ? 2 : 1; }

// One vector of Simd::lanes elements. Registers of a Value are never written after it was made.
struct Value {
  Reg r[2];      // the second for 64-bit types only
  Mem constant;  // set for constants, which live in the pool instead
  bool is_constant = false;
  bool is_number = false;  // of a floating constant: not NaN

  Operand Source(int i) const { return is_constant ? static_cast<const Operand&>(constant) : r[i]; }
};

// The active lanes of a partial vector: the first `count`.
struct Tail {
  Gp count;
  Reg mask32;
  Reg mask64[2];
};

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_VALUE_H_
