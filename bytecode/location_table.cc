#include "bytecode/location_table.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace framejit {
namespace {

enum Kind { kShort = 0, kOneLine = 10, kNoColumns = 13, kLong = 14, kNone = 15 };
constexpr uint8_t kStartsEntry = 0x80;
constexpr uint8_t kContinues = 0x40;
constexpr unsigned kValueBits = 0x3f;
constexpr int kMaxUnits = 8;
constexpr int kMaxLine = std::numeric_limits<int>::max() / 4;  // keeps the arithmetic from overflowing
// What the compact kinds can say.
constexpr int kShortColumns = 80;
constexpr int kShortWidth = 16;
constexpr int kOneLineColumns = 128;
constexpr int kOneLineDeltas = 3;

class Reader {
 public:
  Reader(std::string_view bytes, int first_line)
      : next_(bytes.data()), end_(bytes.data() + bytes.size()), line_(first_line) {}

  bool done() const { return next_ == end_; }

  // False at a truncated or misplaced byte, or an absurd line.
  bool ReadEntry(int& units, SourceSpan& span) {
    int header = 0;
    if (!ReadByte(header) || (header & kStartsEntry) == 0) return false;
    units = (header & 7) + 1;
    const int kind = header >> 3 & 15;
    span = kNoSpan;
    if (kind == kNone) return true;
    if (!ReadSpan(kind, span)) return false;
    return std::max(line_, -line_) < kMaxLine && std::max(span.end_line, -span.end_line) < kMaxLine;
  }

 private:
  bool ReadSpan(int kind, SourceSpan& span) {
    int delta = 0;
    if (kind >= kNoColumns) {
      if (!ReadSigned(delta)) return false;
    } else if (kind >= kOneLine) {
      delta = kind - kOneLine;
    }
    line_ += delta;
    span.line = span.end_line = line_;
    if (kind == kNoColumns) return true;
    if (kind == kLong) return ReadLong(span);
    int first = 0;
    int second = 0;
    if (!ReadByte(first) || (kind >= kOneLine && !ReadByte(second))) return false;
    span.column = kind >= kOneLine ? first : kind << 3 | first >> 4;
    span.end_column = kind >= kOneLine ? second : span.column + (first & 15);
    return true;
  }

  bool ReadLong(SourceSpan& span) {
    unsigned lines, column, end_column;
    if (!ReadNumber(lines) || !ReadNumber(column) || !ReadNumber(end_column)) return false;
    span.end_line = span.line + static_cast<int>(lines);
    span.column = static_cast<int>(column) - 1;
    span.end_column = static_cast<int>(end_column) - 1;
    return true;
  }

  bool ReadByte(int& byte) {
    if (done()) return false;
    byte = static_cast<uint8_t>(*next_++);
    return true;
  }

  bool ReadNumber(unsigned& value) {
    value = 0;
    for (int shift = 0;; shift += 6) {
      int byte = 0;
      if (!ReadByte(byte) || (byte & kStartsEntry) != 0 || shift > 24) return false;
      value |= (byte & kValueBits) << shift;
      if ((byte & kContinues) == 0) return value < unsigned{kMaxLine};
    }
  }

  bool ReadSigned(int& value) {
    unsigned coded = 0;
    if (!ReadNumber(coded)) return false;
    value = (coded & 1) != 0 ? -static_cast<int>(coded >> 1) : static_cast<int>(coded >> 1);
    return true;
  }

  const char* next_;
  const char* end_;
  int line_;
};

}  // namespace

absl::StatusOr<std::vector<SourceSpan>> ParseLocationTable(std::string_view table, int first_line, int units) {
  std::vector<SourceSpan> spans;
  spans.reserve(units);
  Reader reader(table, first_line);
  while (!reader.done()) {
    int covered = 0;
    SourceSpan span = kNoSpan;
    if (!reader.ReadEntry(covered, span)) {
      return absl::InvalidArgumentError(absl::StrCat("location table: malformed after code unit ", spans.size()));
    }
    spans.insert(spans.end(), covered, span);
  }
  spans.resize(units, kNoSpan);
  return spans;
}

void LocationTableWriter::Add(const SourceSpan& span, int units) {
  if (span != span_) Flush();
  span_ = span;
  units_ += units;
}

std::string LocationTableWriter::Finish() {
  Flush();
  return std::move(table_);
}

void LocationTableWriter::Flush() {
  for (; units_ > 0; units_ -= std::min(units_, kMaxUnits)) WriteEntry(std::min(units_, kMaxUnits));
}

void LocationTableWriter::WriteEntry(int units) {
  if (span_.line < 0) return WriteHeader(kNone, units);
  const int delta = span_.line - line_;
  const int column = span_.column;
  const int end_column = span_.end_column;
  line_ = span_.line;
  const bool one_line = span_.end_line == span_.line && column >= 0 && end_column >= 0;
  if ((column < 0 && end_column < 0 && span_.end_line == span_.line) || span_.end_line < span_.line) {
    WriteHeader(kNoColumns, units);
    WriteSigned(delta);
  } else if (one_line && delta == 0 && column < kShortColumns && end_column >= column &&
             end_column - column < kShortWidth) {
    WriteHeader(kShort + (column >> 3), units);
    table_ += static_cast<char>((column & 7) << 4 | (end_column - column));
  } else if (one_line && delta >= 0 && delta < kOneLineDeltas && column < kOneLineColumns &&
             end_column < kOneLineColumns) {
    WriteHeader(kOneLine + delta, units);
    table_ += static_cast<char>(column);
    table_ += static_cast<char>(end_column);
  } else {
    WriteHeader(kLong, units);
    WriteSigned(delta);
    WriteNumber(static_cast<unsigned>(span_.end_line - span_.line));
    WriteNumber(static_cast<unsigned>(column + 1));
    WriteNumber(static_cast<unsigned>(end_column + 1));
  }
}

void LocationTableWriter::WriteHeader(int kind, int units) {
  table_ += static_cast<char>(kStartsEntry | kind << 3 | (units - 1));
}

void LocationTableWriter::WriteNumber(unsigned value) {
  for (; value > kValueBits; value >>= 6) table_ += static_cast<char>(kContinues | (value & kValueBits));
  table_ += static_cast<char>(value);
}

void LocationTableWriter::WriteSigned(int value) {
  WriteNumber(value < 0 ? static_cast<unsigned>(-value) << 1 | 1 : static_cast<unsigned>(value) << 1);
}

}  // namespace framejit
