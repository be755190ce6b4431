// DecodedCode: the instructions of one code object, with EXTENDED_ARG folded in, inline caches skipped and jump targets
// as instruction indices, and its exception table. Decoding checks what it needs for that (opcodes exist, jumps and
// handlers land on instructions); everything else is bytecode/verify.h's.
//
// A DecodedCode holds no reference to its code object, so it may live in that object's extra slot.
#ifndef FRAMEJIT_BYTECODE_DECODE_H_
#define FRAMEJIT_BYTECODE_DECODE_H_

#include <Python.h>

#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bytecode/exception_table.h"
#include "bytecode/location_table.h"
#include "bytecode/opcodes.h"

namespace framejit {

// Offsets are in code units.
struct Instruction {
  Opcode opcode;
  int oparg;
  int start;        // first unit, EXTENDED_ARG prefixes included: what jumps and handlers name
  int offset;       // of the opcode itself: what f_lasti names
  int end;          // first unit after the inline caches
  int target = -1;  // index of the instruction jumped to, -1 if none

  const OpcodeInfo& info() const { return InfoOf(opcode); }
};

class DecodedCode {
 public:
  // InvalidArgument when the bytes are no code of this minor; Internal with no Python exception left when CPython
  // failed.
  static absl::StatusOr<DecodedCode> Decode(PyCodeObject* code);
  // The same from what would be co_code and co_exceptiontable.
  static absl::StatusOr<DecodedCode> DecodeBytes(std::string_view code, std::string_view exception_table);

  const std::vector<Instruction>& instructions() const { return instructions_; }
  const Instruction& operator[](int index) const { return instructions_[index]; }
  int size() const { return static_cast<int>(instructions_.size()); }
  int units() const { return static_cast<int>(index_at_.size()); }
  // The instruction that the unit belongs to, its prefixes and caches included; -1 outside the code.
  int IndexCovering(int offset) const;
  // The instruction that starts at the unit, -1 if none does.
  int IndexStarting(int offset) const;

  const std::vector<ExceptionEntry>& exception_table() const { return exception_table_; }
  // The entry that handles exceptions raised by the instruction, or null.
  const ExceptionEntry* HandlerOf(const Instruction& instruction) const {
    return FindExceptionEntry(exception_table_, instruction.offset);
  }

 private:
  absl::Status DecodeInstructions(std::string_view bytes);
  absl::Status ResolveTargets();

  std::vector<Instruction> instructions_;
  std::vector<int> index_at_;
  std::vector<ExceptionEntry> exception_table_;
};

// The line and span the compiler recorded for an instruction of `code`; -1 where it recorded none.
int LineOf(PyCodeObject* code, const Instruction& instruction);
SourceSpan SpanOf(PyCodeObject* code, const Instruction& instruction);

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_DECODE_H_
