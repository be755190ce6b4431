// Emits the function of one scheduled kernel: the loop over rows, the passes over each row, reductions between them.
#ifndef FRAMEJIT_BACKENDS_CPU_CODEGEN_KERNEL_EMITTER_H_
#define FRAMEJIT_BACKENDS_CPU_CODEGEN_KERNEL_EMITTER_H_

#include <vector>

#include "backends/cpu/codegen/memory.h"
#include "backends/cpu/codegen/operators.h"
#include "backends/loop/schedule.h"

namespace framejit::cpu {

// Whether units of work are elements of the only dimension rather than rows (see CompiledKernel).
bool SplitsByElements(const loop::Kernel& kernel);

class KernelEmitter {
 public:
  KernelEmitter(x86::Compiler& cc, Isa isa, const loop::Kernel& kernel, const loop::Schedule& schedule);
  void Emit();

 private:
  // The elements a pass covers: [begin, end), end constant unless end_register is valid.
  struct Range {
    Gp begin;
    Gp end_register;
    int64_t end = 0;
    bool is_static() const { return !end_register.isValid(); }
  };

  void EmitElementRange(const Gp& begin, const Gp& end);
  void EmitRowLoop(const Gp& begin, const Gp& end);
  void EmitRow();
  void LoadBufferPointers();
  void SetPosition(const Gp& first_row);
  void AdvanceRow();
  void AddToPointer(size_t access, int64_t elements);

  void EmitRowNodes(const loop::Pass& pass);
  void EmitPass(const loop::Pass& pass, const Range& range);
  void EmitUnrolledLoop(const loop::Pass& pass, const Range& range, int unroll);
  void EmitBlockedLoop(const loop::Pass& pass, int64_t end, int unroll);
  void EmitVectorLoop(const loop::Pass& pass, const Range& range, int64_t already);
  void EmitTail(const loop::Pass& pass, const Range& range);
  // One vector of elements at index_ + displacement; `part` chooses the accumulators.
  void EmitGroup(const loop::Pass& pass, int part, const Tail* tail);
  void EmitElement(loop::ValueId id, int part, const Tail* tail);
  void EmitReductionStep(loop::ValueId id, int part, const Tail* tail);
  Value InnerIndex(int64_t displacement);
  Value Broadcast(const Gp& value);
  Mem RowBuffer(loop::ValueId id, int64_t displacement, int register_index);
  int ChooseUnroll(const loop::Pass& pass, const Range& range) const;
  Value Compute(const loop::Node& node);

  void StartReductions(const loop::Pass& pass, int parts);
  void SetAccumulator(loop::ValueId id, int part, const Value& value);
  void MergeParts(const loop::Pass& pass, int parts);
  void FlushBlockSums(const loop::Pass& pass, int parts);
  void FinishReductions(const loop::Pass& pass);
  std::vector<loop::ValueId> ReductionsOf(const loop::Pass& pass) const;

  x86::Compiler& cc_;
  Simd simd_;
  Operators operators_;
  Memory memory_;
  const loop::Kernel& kernel_;
  const loop::Schedule& schedule_;

  Gp buffers_;
  Gp index_;                                      // inner position of the current group
  std::vector<Gp> pointers_;                      // by access: element 0 of the current row
  std::vector<Gp> position_;                      // of the current row in each row dimension
  std::vector<Value> values_;                     // by ValueId
  std::vector<std::vector<Value>> accumulators_;  // by ValueId of a reduction, by part
  std::vector<Value> totals_;                     // by ValueId: sums of finished blocks
  std::vector<Mem> row_buffers_;                  // by ValueId
};

}  // namespace framejit::cpu

#endif  // FRAMEJIT_BACKENDS_CPU_CODEGEN_KERNEL_EMITTER_H_
