// Emits the scalar operators of the loop IR on vectors of lanes.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_OPERATORS_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_OPERATORS_H_

#include "backends/cpu/codegen/lane_functions.h"
#include "backends/cpu/codegen/rounding.h"
#include "backends/cpu/codegen/value.h"

namespace framejit::cpu {

class Operators {
 public:
  explicit Operators(Simd& simd) : s(simd) {}

  Value Constant(const loop::Node& node);
  // Any operator but leaves, stores, casts and reductions. `dtype`: of the value operands.
  Value Apply(loop::Op op, loop::DType dtype, const Value* operands);
  Value ShortGelu(const Value& x);  // of f32, for a result that is rounded to bfloat16
  Value Cast(loop::DType from, loop::DType to, const Value& value, const Rounding& rounding = {});  // convert.cc

  // One step of a reduction, its start, and the combination of all lanes into every lane.
  Value Combine(loop::Op reduction, loop::DType dtype, const Value& element, const Value& accumulator);
  Value Identity(loop::Op reduction, loop::DType dtype);
  Value CombineLanes(loop::Op reduction, loop::DType dtype, const Value& accumulator);

  Value Select(loop::DType dtype, const Value& mask, const Value& on_true, const Value& on_false);
  Value Materialize(loop::DType dtype, const Value& value);  // into registers

 private:
  using DType = loop::DType;
  using Op = loop::Op;
  Reg First(const Value& value, int i);
  Value Float32(Op op, const Value* operands);
  Value Float64(Op op, const Value* operands);
  Value Int(Op op, DType dtype, const Value* operands);
  Value Bits(Op op, DType dtype, const Value* operands);
  Value Compare(Op op, DType dtype, const Value* operands);
  Value MinMaxFloat(InstId inst, DType dtype, const Value* operands);
  Reg MinMaxInt64(bool max, const Reg& a, const Reg& b);
  Reg MultiplyInt64(const Reg& a, const Reg& b);
  Value SinCos(Op op, const Value& x);
  Value Call(Op op, DType dtype, const Value* operands);
  Value Composed64(Op op, const Value* operands);
  Value CallLanes(LaneFunction function, DType from, DType to, const Value& x, const Value* y);
  void Spill(DType dtype, const Value& value, const Mem& slot);
  Mem Slot(int index);

  Value ConvertRegisters(DType from, DType to, const Value& value);
  Value FromFloat32(DType to, const Value& value);
  Value FromFloat64(DType to, const Value& value);
  Value FromInt32(DType to, const Value& value);
  Value FromInt64(DType to, const Value& value);
  Value ToBool(DType from, const Value& value);
  Reg WrapNarrow(DType to, const Reg& value);
  Reg RoundToBFloat16(const Reg& value, const Rounding& rounding);
  Reg RoundToFloat16(const Reg& value);

  Simd& s;
  Mem slots_[2];
  bool has_slot_[2] = {};
};

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_OPERATORS_H_
