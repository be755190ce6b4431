// How many values are on the stack before each instruction, and the most there are at once: what co_stacksize must
// hold. A handler starts with the depth its exception-table entry keeps, the instruction's offset if the entry says so,
// and the exception. Works on decoded code; terminates because each instruction gets its depth once.
#ifndef FRAMEJIT_BYTECODE_STACK_DEPTH_H_
#define FRAMEJIT_BYTECODE_STACK_DEPTH_H_

#include <vector>

#include "absl/status/statusor.h"
#include "bytecode/decode.h"

namespace framejit {

struct StackDepths {
  std::vector<int> before;  // by instruction; -1 where control never comes
  int max = 0;
};

// InvalidArgument, naming the instruction, when the stack would underflow, paths meet with different depths, a handler
// keeps more than there is, or the frame returns with values left.
absl::StatusOr<StackDepths> ComputeStackDepths(const DecodedCode& code);

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_STACK_DEPTH_H_
