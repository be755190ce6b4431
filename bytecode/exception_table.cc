#include "bytecode/exception_table.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace framejit {
namespace {

constexpr uint8_t kValueBits = 0x3f;
constexpr uint8_t kContinues = 0x40;
constexpr uint8_t kStartsEntry = 0x80;
constexpr int kMaxValue = 1 << 28;  // what a code object can hold; keeps the arithmetic from overflowing

class Reader {
 public:
  explicit Reader(std::string_view bytes) : next_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  bool done() const { return next_ == end_; }

  // False at a truncated or misplaced group.
  bool ReadEntry(ExceptionEntry& entry) {
    int length = 0;
    int depth_and_lasti = 0;
    if (!ReadNumber(true, entry.start) || !ReadNumber(false, length) || !ReadNumber(false, entry.target) ||
        !ReadNumber(false, depth_and_lasti)) {
      return false;
    }
    entry.end = entry.start + length;
    entry.depth = depth_and_lasti >> 1;
    entry.push_lasti = (depth_and_lasti & 1) != 0;
    return true;
  }

 private:
  bool ReadNumber(bool starts_entry, int& value) {
    value = 0;
    for (bool first = true;; first = false) {
      if (done() || value >= kMaxValue >> 6) return false;
      const uint8_t byte = static_cast<uint8_t>(*next_++);
      if (((byte & kStartsEntry) != 0) != (first && starts_entry)) return false;
      value = value << 6 | (byte & kValueBits);
      if ((byte & kContinues) == 0) return true;
    }
  }

  const char* next_;
  const char* end_;
};

void WriteNumber(std::string& table, int value, uint8_t first_bit) {
  int shift = 0;
  while (value >> shift > kValueBits) shift += 6;
  for (; shift >= 0; shift -= 6, first_bit = 0) {
    const int more = shift > 0 ? kContinues : 0;
    table += static_cast<char>(first_bit | more | (value >> shift & kValueBits));
  }
}

std::string_view TableBytes(PyCodeObject* code) {
  return {PyBytes_AS_STRING(code->co_exceptiontable), static_cast<size_t>(PyBytes_GET_SIZE(code->co_exceptiontable))};
}

}  // namespace

absl::StatusOr<std::vector<ExceptionEntry>> ParseExceptionTable(std::string_view table) {
  std::vector<ExceptionEntry> entries;
  Reader reader(table);
  while (!reader.done()) {
    ExceptionEntry entry;
    if (!reader.ReadEntry(entry)) {
      return absl::InvalidArgumentError(absl::StrCat("exception table: entry ", entries.size(), " is malformed"));
    }
    entries.push_back(entry);
  }
  return entries;
}

std::string WriteExceptionTable(const std::vector<ExceptionEntry>& entries) {
  std::string table;
  for (const ExceptionEntry& entry : entries) {
    WriteNumber(table, entry.start, kStartsEntry);
    WriteNumber(table, entry.end - entry.start, 0);
    WriteNumber(table, entry.target, 0);
    WriteNumber(table, entry.depth << 1 | (entry.push_lasti ? 1 : 0), 0);
  }
  return table;
}

std::optional<ExceptionHandler> FindExceptionHandler(PyCodeObject* code, int offset) {
  Reader reader(TableBytes(code));
  ExceptionEntry entry;
  while (!reader.done() && reader.ReadEntry(entry) && entry.start <= offset) {
    if (offset < entry.end) return ExceptionHandler{entry.target, entry.depth, entry.push_lasti};
  }
  return std::nullopt;
}

const ExceptionEntry* FindExceptionEntry(const std::vector<ExceptionEntry>& table, int offset) {
  auto after = std::upper_bound(table.begin(), table.end(), offset,
                                [](int unit, const ExceptionEntry& entry) { return unit < entry.start; });
  if (after == table.begin()) return nullptr;
  const ExceptionEntry& entry = *(after - 1);
  return offset < entry.end ? &entry : nullptr;
}

}  // namespace framejit
