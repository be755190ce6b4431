// Rewriting a code object so that it can be left and entered in the middle. The original instructions follow in their
// order, with their source positions and exception regions; only jumps are measured again.
//
// *Re-entry point*: before an instruction, whichever way control comes there, a stub calls a hook. When the hook
// returns None the frame goes on with the instruction; anything else the frame returns at once, releasing its stack and
// putting back the exception that was handled when it started.
//     LOAD_CONST hook; UNARY_INVERT; COPY 1; POP_JUMP_IF_NOT_NONE exit; POP_TOP; <instruction>
// The hook is called through __invert__ of a wrapper and not through CALL, so that tools see no call; those that look
// at single instructions or branches (f_trace_opcodes, INSTRUCTION and BRANCH events) do see the stub. A stub has the
// source position of its instruction: with none of its own, it would end the line, and tools would see the line begin
// again behind it. The position also serves the hook's own exceptions, which go where the instruction's go.
//
// *Enter-at*: the code starts with a prologue that sets up the frame from a state, and goes on at any instruction.
#ifndef FRAMEJIT_BYTECODE_REWRITE_H_
#define FRAMEJIT_BYTECODE_REWRITE_H_

#include <Python.h>

#include <vector>

#include "absl/status/statusor.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

struct ReentryPoint {
  int target;  // index of the decoded original's instruction; Reentries::IsLegal
  // A callable without arguments. A C callable finds the frame as the thread's innermost one: its localsplus
  // (FrameView::locals; see SlotShift) and its value stack (FrameView::stack_base, Reentries::DepthAt values).
  PyRef hook;
};

// The state in which the frame is when it comes to `target`. Instructions are indices of the decoded original, slots
// are localsplus slots of the original (locals, cells and free variables alike).
struct EnterAt {
  int target = -1;  // Reentries::CanEnter
  // The slots that have a value; for a cell slot that is the cell object. All others start unbound, but free variables
  // come from the closure of the function that is made from the code, if it has one.
  std::vector<int> locals;
  bool closure = true;
  // The value stack, bottom first: whether it is a value; false: a NULL.
  std::vector<bool> stack;

  // The frame is one below a call that is still to be made: `stack` is what is left when the operands of the
  // instruction `call` are gone. The prologue calls a callable with an argument there, as if `call` did: same line,
  // same handlers. When the result is `marker` the frame returns it at once. Else the frame goes on at `target`, the
  // result on top of the stack (unless dropped), through the re-entry point there if there is one.
  bool inner_call = false;
  int call = -1;
  bool drop_result = false;
  PyRef marker;

  // A callable without arguments, called when the state is unpacked and before anything else runs, which is the time to
  // let go of it; null: none.
  PyRef unpacked;

  // One that is at `target` is skipped when the prologue goes there itself (without inner_call).
  std::vector<ReentryPoint> reentries;
};

// A code object with one positional argument, a tuple: the values of `locals` in that order; the values of the stack,
// bottom first (NULLs have none); if StateHasException, the exception being handled (sys.exc_info()); with inner_call
// the callable and its argument. Stack values that saved an outer handled exception are given like all others (of the
// outermost one it does not matter which: the frame saves what is handled when it starts). So are the offsets that
// handlers keep for RERAISE, though they are offsets of other code: CPython takes from them only which line the frame
// object of a frame that was left shows. `offsets`, if not null, says by the offset of each instruction of the original
// where it is in the result, and -1 elsewhere.
//
// InvalidArgument when the code is a generator's, a module's or a class body's, or the state does not fit the code;
// Internal when CPython failed. No Python exception is left.
absl::StatusOr<PyRef> MakeEnterAt(PyCodeObject* code, const EnterAt& enter, std::vector<int>* offsets = nullptr);

// Whether the state at the instruction includes the exception being handled: the instruction is in an except handler
// or its like. InvalidArgument when nothing can enter there.
absl::StatusOr<bool> StateHasException(PyCodeObject* code, int target);

// The same code object, called the same way, with re-entry points. Errors as above; generators are fine.
absl::StatusOr<PyRef> MakeWithReentries(PyCodeObject* code, const std::vector<ReentryPoint>& reentries);

// How much further up the slots of `original` are in the localsplus of `rewritten`, which was made from it: 1 where a
// local had to be added, else 0.
int SlotShift(PyCodeObject* original, PyCodeObject* rewritten);

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_REWRITE_H_
