// Which instruction sets this CPU and operating system run.
#include <asmjit/core.h>

#include "backends/cpu/codegen/kernel_compiler.h"

namespace framejit::cpu {

// asmjit reports AVX and AVX-512 only when the operating system saves their registers (XGETBV).
absl::StatusOr<Isa> DetectIsa() {
  const asmjit::CpuFeatures::X86& features = asmjit::CpuInfo::host().features().x86();
  if (!features.hasAVX2() || !features.hasFMA() || !features.hasF16C() || !features.hasBMI2()) {
    return absl::UnimplementedError("the CPU backend needs AVX2, FMA, F16C and BMI2");
  }
  const bool wide =
      features.hasAVX512_F() && features.hasAVX512_DQ() && features.hasAVX512_BW() && features.hasAVX512_VL();
  if (!wide) return Isa::kAvx2;
  return features.hasAVX512_VNNI() ? Isa::kAvx512Vnni : Isa::kAvx512;
}

bool IsIntelCpu() { return asmjit::CpuInfo::host().isVendor("INTEL"); }  // asmjit shortens the names that CPUs give

}  // namespace framejit::cpu
