// CodeWriter: what bytecode/rewrite.cc emits into: instructions in order, jumps to labels that may be bound later,
// exception regions between labels, and constants. Finish turns labels into the indices of an Assembly.
#ifndef FRAMEJIT_BYTECODE_CODE_WRITER_H_
#define FRAMEJIT_BYTECODE_CODE_WRITER_H_

#include <Python.h>

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bytecode/encode.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

class CodeWriter {
 public:
  using Label = int;

  // Constants follow those of `consts`, a tuple.
  explicit CodeWriter(PyObject* consts);

  Label NewLabel();
  // Several new labels that follow each other; the first.
  Label NewLabels(int count);
  // The label names the instruction emitted next.
  void Bind(Label label) { positions_[label] = static_cast<int>(assembly_.instructions.size()); }

  // Instructions emitted so far.
  int size() const { return static_cast<int>(assembly_.instructions.size()); }

  // Source of what is emitted from here on.
  void SetSpan(const SourceSpan& span) { span_ = span; }
  void Emit(Opcode opcode, int oparg = 0);
  // By name, for opcodes that not every minor has.
  void EmitNamed(std::string_view name, int oparg = 0);
  void EmitJump(Opcode opcode, Label target);
  // An instruction with its own span and prefixes. `target` is a label; -1: no jump.
  void EmitCopy(const AssemblyInstruction& instruction, Label target);
  void LoadConstant(const PyRef& constant);
  void LoadIndex(int index);

  // Exception regions, in order; the labels may be bound later.
  void AddHandler(Label begin, Label end, Label target, int depth, bool push_lasti);

  // Once. Internal, with no Python exception left, when a label is not bound, this minor lacks an opcode that was
  // named, or CPython failed.
  struct Finished {
    Assembly assembly;
    PyRef consts;
  };
  absl::StatusOr<Finished> Finish();

 private:
  absl::Status Resolve();
  absl::StatusOr<PyRef> Constants();

  Assembly assembly_;           // targets and regions are labels until Finish
  std::vector<int> positions_;  // by label; -1: not bound
  SourceSpan span_ = kNoSpan;
  std::vector<PyRef> constants_;
  std::vector<int> index_constants_;  // by index: the constant that is this int, -1: none yet
  bool failed_ = false;
};

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_CODE_WRITER_H_
