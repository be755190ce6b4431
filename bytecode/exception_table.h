// The exception table of a code object (co_exceptiontable): parsing and writing it, and finding the handler of an
// instruction.
// Whether the entries make sense for the code is bytecode/verify.h's business.
//
// Format (CPython Objects/exception_handling_notes.txt, 3.11 to 3.13): per entry four numbers, start, length, target
// (code units) and depth << 1 | lasti, in big-endian groups of six bits; bit 6 says that another group follows, bit 7
// starts an entry. Entries are sorted by start and do not overlap.
#ifndef FRAMEJIT_BYTECODE_EXCEPTION_TABLE_H_
#define FRAMEJIT_BYTECODE_EXCEPTION_TABLE_H_

#include <Python.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace framejit {

struct ExceptionEntry {
  int start;   // code units, first covered
  int end;     // first not covered
  int target;  // code units
  int depth;   // values kept on the stack
  bool push_lasti;

  friend bool operator==(const ExceptionEntry&, const ExceptionEntry&) = default;
};

// InvalidArgument when the bytes are no exception table.
absl::StatusOr<std::vector<ExceptionEntry>> ParseExceptionTable(std::string_view table);
// The inverse.
std::string WriteExceptionTable(const std::vector<ExceptionEntry>& entries);

// What CPython does when the instruction at `offset` raised: cut the stack to `depth` values, push the instruction's
// offset if `push_lasti`, push the exception, go on at `target`.
struct ExceptionHandler {
  int target;
  int depth;
  bool push_lasti;
};

// The handler of the instruction at `offset` (code units), read from the table itself: no allocation, for code that
// nobody decoded. Nothing when the exception leaves the frame.
std::optional<ExceptionHandler> FindExceptionHandler(PyCodeObject* code, int offset);

// The entry of a parsed table that covers `offset`, or null.
const ExceptionEntry* FindExceptionEntry(const std::vector<ExceptionEntry>& table, int offset);

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_EXCEPTION_TABLE_H_
