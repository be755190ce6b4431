// The location table of a code object (co_linetable): parsing it into one source span for each code unit, and writing
// one. What compilers other than CPython's wrote is read as CPython reads it.
//
// Format (CPython Objects/locations.md, 3.11 to 3.13): an entry covers 1 to 8 code units and starts with a byte
// 0x80 | kind << 3 | units - 1. Kinds 0 to 9: same line, columns in one more byte; 10 to 12: line 0 to 2 further,
// columns in two bytes; 13: line without columns; 14: everything spelled out; 15: no location. Numbers that need more
// than a byte are in little-endian groups of six bits, of which bit 6 says that another follows; signed ones keep the
// sign in bit 0.
#ifndef FRAMEJIT_BYTECODE_LOCATION_TABLE_H_
#define FRAMEJIT_BYTECODE_LOCATION_TABLE_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace framejit {

struct SourceSpan {
  int line, column, end_line, end_column;  // -1 where unknown

  friend bool operator==(const SourceSpan&, const SourceSpan&) = default;
};
inline constexpr SourceSpan kNoSpan = {-1, -1, -1, -1};

// One span for each of `units` code units; those that the table does not reach have none. InvalidArgument when the
// bytes are no location table.
absl::StatusOr<std::vector<SourceSpan>> ParseLocationTable(std::string_view table, int first_line, int units);

// Writes the table for spans added in the order of their code units.
class LocationTableWriter {
 public:
  explicit LocationTableWriter(int first_line) : line_(first_line) {}

  void Add(const SourceSpan& span, int units);
  std::string Finish();

 private:
  void Flush();
  void WriteEntry(int units);
  void WriteHeader(int kind, int units);
  void WriteNumber(unsigned value);
  void WriteSigned(int value);

  int line_;  // of the last entry that has one
  SourceSpan span_ = kNoSpan;
  int units_ = 0;  // added and not yet written, all with span_
  std::string table_;
};

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_LOCATION_TABLE_H_
