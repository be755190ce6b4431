// Where a code object can be entered in the middle or given a re-entry point (bytecode/rewrite.h), and where control
// goes after an instruction.
#ifndef FRAMEJIT_BYTECODE_REENTRY_H_
#define FRAMEJIT_BYTECODE_REENTRY_H_

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "bytecode/decode.h"
#include "bytecode/exception_state.h"
#include "bytecode/stack_depth.h"

namespace framejit {

// Why no re-entry point can stand before an instruction.
enum class ReentryRefusal {
#define REENTRY_REFUSAL(name, reason) name,
#include "bytecode/reentry_refusals.def"
#undef REENTRY_REFUSAL
};
std::string_view ReentryRefusalName(ReentryRefusal refusal);
std::string_view ReentryRefusalReason(ReentryRefusal refusal);

// The facts about one code object that entering it in the middle needs. `code` outlives it.
class Reentries {
 public:
  // InvalidArgument when the stack depths of the code do not fit together.
  static absl::StatusOr<Reentries> Analyze(const DecodedCode& code);

  // Whether a re-entry point may stand before the instruction.
  bool IsLegal(int index) const { return refusals_[index] == ReentryRefusal::kNone; }
  // Whether enter-at may go on at the instruction. A bit more: nothing can be raised between entering and it.
  bool CanEnter(int index) const { return IsLegal(index) || refusals_[index] == ReentryRefusal::kUncovered; }
  ReentryRefusal Refusal(int index) const { return refusals_[index]; }
  // The indices at which a re-entry point is legal.
  std::vector<int> Legal() const;
  // The first legal ones that control can come to after the instruction, passing through others; sorted.
  std::vector<int> LegalAfter(int index) const;
  // Stack depth before the instruction, -1 where control never comes.
  int DepthAt(int index) const { return depths_.before[index]; }
  // As ExceptionStates::SavedAt. Requires CanEnter(index).
  std::vector<int> SavedAt(int index) const { return *exceptions_.SavedAt(index); }
  std::vector<int> LastisAt(int index) const { return exceptions_.LastisAt(index); }

 private:
  Reentries(const DecodedCode& code, StackDepths depths);
  ReentryRefusal Judge(int index) const;

  const DecodedCode& code_;
  StackDepths depths_;
  ExceptionStates exceptions_;
  int resume_ = -1;                   // the RESUME that ends the prefix
  std::vector<bool> in_send_;         // by instruction: inside a SEND loop
  std::vector<bool> starts_handler_;  // by instruction
  std::vector<ReentryRefusal> refusals_;
};

// Whether a re-entry point may stand before the instruction. For one question; Reentries answers many.
bool IsLegalReentry(const DecodedCode& code, int index);

// The instructions that can run next when the instruction does not raise. What the evaluator skips is skipped: an
// exhausted FOR_ITER goes on behind the END_FOR (and in 3.13 the POP_TOP) that it names as its target.
std::vector<int> Successors(const DecodedCode& code, int index);

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_REENTRY_H_
