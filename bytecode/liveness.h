// Liveness of localsplus slots (locals, cells, free variables): which of them an instruction and what may run after it
// can still read. With StackDepths this is what leaving a frame there must carry: the live slots and all stack values
// (those are read or at least released by the code that follows).
//
// Backward data flow over the Cfg; sets only grow, so it terminates. A slot is also live where the handler of an
// instruction that may raise reads it. Not modelled: locals(), frame objects and the time of a value's destruction.
#ifndef FRAMEJIT_BYTECODE_LIVENESS_H_
#define FRAMEJIT_BYTECODE_LIVENESS_H_

#include <cstdint>
#include <vector>

#include "bytecode/cfg.h"
#include "bytecode/decode.h"

namespace framejit {

// The slots one instruction reads and writes, in no more than two steps.
struct SlotAccess {
  int reads[2] = {-1, -1};
  int writes[2] = {-1, -1};  // emptying counts as writing
  bool writes_first = false;
};
// Free variables copied by COPY_FREE_VARS are not in it: they are the last oparg slots.
SlotAccess SlotAccessOf(const Instruction& instruction);

class Liveness {
 public:
  // `slot_count`: co_nlocalsplus.
  Liveness(const DecodedCode& code, const Cfg& cfg, int slot_count);

  bool IsLiveBefore(int instruction, int slot) const { return Test(before_, instruction, slot); }
  std::vector<int> SlotsLiveBefore(int instruction) const;

 private:
  using Word = uint64_t;
  static constexpr int kWordBits = 64;

  bool Test(const std::vector<Word>& sets, int set, int slot) const {
    return (sets[set * words_ + slot / kWordBits] >> (slot % kWordBits) & 1) != 0;
  }
  // Each returns whether the sets before the block or instruction changed.
  bool VisitBlock(const DecodedCode& code, const Cfg& cfg, const BasicBlock& block);
  bool VisitInstruction(const DecodedCode& code, const Cfg& cfg, const BasicBlock& block, int index);
  void Transfer(const Instruction& instruction);
  void Unite(int instruction);

  int slot_count_;
  int words_;
  std::vector<Word> before_;   // one set for each instruction
  std::vector<Word> current_;  // the set being computed
};

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_LIVENESS_H_
