// Assembling code: instructions with jump targets and exception regions as instruction indices into the bytes, the
// exception table and the location table of a code object, and that code object itself. Decoding and encoding are
// inverse: the same bytes and exception table, and a location table that says the same.
//
// Nothing here judges what the instructions do; BuildCode runs the verifier on what it made.
#ifndef FRAMEJIT_BYTECODE_ENCODE_H_
#define FRAMEJIT_BYTECODE_ENCODE_H_

#include <Python.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bytecode/decode.h"
#include "bytecode/location_table.h"
#include "bytecode/opcodes.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

struct AssemblyInstruction {
  Opcode opcode;
  int oparg = 0;     // of a jump: found by Encode
  int target = -1;   // of a jump: an index into Assembly::instructions
  int prefixes = 0;  // EXTENDED_ARGs to have at least, needed or not
  SourceSpan span = kNoSpan;
};

// Indices of instructions, `end` exclusive.
struct AssemblyHandler {
  int begin, end, target;
  int depth;
  bool push_lasti;
};

struct Assembly {
  std::vector<AssemblyInstruction> instructions;
  std::vector<AssemblyHandler> handlers;  // ordered and disjoint
};

// The assembly of an existing code object; `decoded` is of `code`. InvalidArgument when its location table is
// malformed or an exception region does not start and end at an instruction.
absl::StatusOr<Assembly> Disassemble(const DecodedCode& decoded, PyCodeObject* code);

struct EncodedCode {
  std::string bytes;  // as co_code: caches are zero
  std::string exception_table;
  std::string location_table;
  int stack_size;  // as much as the code needs
};
// InvalidArgument when a target is out of range, a jump goes the wrong way, or stack depths do not fit together.
absl::StatusOr<EncodedCode> Encode(const Assembly& assembly, int first_line);

// What a new code object has different from the one it is made from.
struct CodeHeader {
  int argcount, posonlyargcount, kwonlyargcount;
  int flags;
  PyRef consts;  // a tuple
  // The name of a local in front of all others, which shifts every localsplus slot by one; null: none. For code that
  // needs a local and has none.
  PyRef leading_local;

  static CodeHeader Of(PyCodeObject* code);
};

// A code object with `original`'s names, variables, filename, name and first line, and co_stacksize no smaller than
// the original's. InvalidArgument when the code is not right (see Encode, and the verifier, which always runs);
// Internal with no Python exception left when CPython failed.
absl::StatusOr<PyRef> BuildCode(const Assembly& assembly, PyCodeObject* original, const CodeHeader& header);

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_ENCODE_H_
