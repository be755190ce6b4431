// Where on the value stack a frame keeps the exceptions that were being handled before it began to handle one
// (PUSH_EXC_INFO saves sys.exc_info()'s exception there, POP_EXCEPT puts it back). Who enters a frame in the middle
// must build that state, who leaves it there must undo it.
//
// Forward data flow over decoded code: each stack value is traced to the PUSH_EXC_INFO that pushed it, through SWAP and
// COPY. An instruction that paths reach with different states has none.
#ifndef FRAMEJIT_BYTECODE_EXCEPTION_STATE_H_
#define FRAMEJIT_BYTECODE_EXCEPTION_STATE_H_

#include <optional>
#include <vector>

#include "bytecode/decode.h"

namespace framejit {

class ExceptionStates {
 public:
  // `code` has passed ComputeStackDepths.
  explicit ExceptionStates(const DecodedCode& code);

  // Stack positions, bottom first, of the exceptions saved by the handlers that the instruction is in, outermost first.
  // Nothing where control never comes, the state is not the same on all paths, or a saved exception is there twice
  // (which is so only between the COPY and the POP_EXCEPT of clean-up code).
  std::optional<std::vector<int>> SavedAt(int index) const;
  // Stack positions of the offsets of instructions that raised, which some handlers are given for RERAISE to go by.
  std::vector<int> LastisAt(int index) const;
  // Whether an exception may be raised just before the instruction and go where the instruction's go: to a handler that
  // expects this state and keeps all of its saved exceptions, or out of the frame where there are none. Not so where
  // the compiler knew that nothing is raised: in the code around POP_EXCEPT.
  bool FitsHandler(int index) const;

 private:
  // For each stack value the instruction that saved it here; kLasti for an offset that a handler was given, kOrdinary
  // for any other value.
  using State = std::vector<int>;
  enum class Known { kNever, kOne, kConflict };
  struct Entry {
    Known known = Known::kNever;
    State state;
  };

  void Reach(int index, const Entry& entry);
  void Visit(int index);
  void Follow(int index, const Entry& before, bool taken, int next);
  static void Apply(const Instruction& instruction, int index, bool taken, State& state);
  static State AtHandler(const ExceptionEntry& handler, const State& state);

  const DecodedCode& code_;
  std::vector<Entry> before_;
  std::vector<int> pending_;
};

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_EXCEPTION_STATE_H_
