// Emits loads and stores of vectors and row scalars, with the conversions between memory and registers.
// Never touches a byte outside the elements of the active lanes.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_MEMORY_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_MEMORY_H_

#include "backends/cpu/codegen/value.h"

namespace framejit::cpu {

// Where a vector's lanes lie: element index + displacement + lane, times stride, from `base`. No index: zero.
struct Lanes {
  Gp base;
  Gp index;
  int64_t displacement = 0;
  int64_t stride = 1;
};

class Memory {
 public:
  explicit Memory(Simd& simd) : s(simd) {}

  // tail == nullptr: all lanes are active. Inactive lanes load as zero or garbage.
  Value LoadVector(loop::DType dtype, const Lanes& lanes, const Tail* tail);
  void StoreVector(loop::DType dtype, const Lanes& lanes, const Value& value, const Tail* tail);
  // One element in every lane; lane 0 to one element.
  Value LoadScalar(loop::DType dtype, const Gp& pointer);
  void StoreScalar(loop::DType dtype, const Gp& pointer, const Value& value);

  Tail MakeTail(const Gp& count);

 private:
  using DType = loop::DType;
  Mem Address(const Lanes& lanes, int64_t bytes, int register_index) const;
  Value Unpack(DType dtype, const Mem& at);
  Reg UnpackNarrow(DType dtype, const Operand& from);
  void Pack(DType dtype, const Mem& at, const Value& value);
  Reg PackNarrow(DType dtype, const Value& value);
  Value LoadMasked(DType dtype, const Lanes& lanes, const Tail& tail);
  void StoreMasked(DType dtype, const Lanes& lanes, const Value& value, const Tail& tail);
  void UnpackMaskedWide(DType dtype, const Mem& at, const Tail& tail, Value& out);
  void PackMaskedWide(DType dtype, const Mem& at, const Value& value, const Tail& tail);
  // Element by element between memory and the scratch slot: strides other than one, and narrow tails on AVX2.
  void CopyLanes(DType dtype, const Lanes& lanes, const Tail* tail, bool to_scratch);
  Gp FirstElement(const Lanes& lanes, int64_t bytes);
  Reg GatherQuarter(const Gp& first, int64_t step, int64_t bytes, int lane);
  Reg GatherRegister(const Gp& first, int64_t step, int64_t bytes, int lane);
  void CopyElement(int64_t bytes, const Mem& from, const Mem& to);
  Reg PackBytes16(const Reg& value);
  Reg PackBytes8(const Reg& value);
  Reg StorageBits(DType dtype, const Reg& value);
  Mem Scratch();

  Simd& s;
  Mem scratch_;
  bool has_scratch_ = false;
};

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_MEMORY_H_
