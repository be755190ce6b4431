// See vector_functions.h. SLEEF: N. Shibata and F. Petrogalli, https://sleef.org.
#include "backends/cpu/codegen/vector_functions.h"

// Only the addresses are used, so that the declared types say nothing.
extern "C" {
#define FRAMEJIT_VECTOR_FUNCTION(op, name, suffix)        \
  void Sleef_##name##f16##suffix() __attribute__((weak)); \
  void Sleef_##name##d8##suffix() __attribute__((weak));  \
  void Sleef_##name##f8##suffix() __attribute__((weak));  \
  void Sleef_##name##d4##suffix() __attribute__((weak));
#include "backends/cpu/codegen/vector_functions.def"
#undef FRAMEJIT_VECTOR_FUNCTION
}

namespace framejit::cpu {

const void* FindVectorFunction(loop::Op op, loop::DType dtype, bool wide) {
  const bool doubles = dtype == loop::DType::kFloat64;
  void (*function)() = nullptr;
  switch (op) {
#define FRAMEJIT_VECTOR_FUNCTION(op, name, suffix)                                       \
  case loop::Op::k##op:                                                                  \
    function = wide ? (doubles ? &Sleef_##name##d8##suffix : &Sleef_##name##f16##suffix) \
                    : (doubles ? &Sleef_##name##d4##suffix : &Sleef_##name##f8##suffix); \
    break;
#include "backends/cpu/codegen/vector_functions.def"
#undef FRAMEJIT_VECTOR_FUNCTION
    default:
      break;
  }
  return reinterpret_cast<const void*>(function);
}

}  // namespace framejit::cpu
