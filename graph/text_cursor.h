// A cursor over one line of text, for the graph's parser. The first failure sticks: what is taken after it is empty.
#ifndef FRAMEJIT_GRAPH_TEXT_CURSOR_H_
#define FRAMEJIT_GRAPH_TEXT_CURSOR_H_

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace framejit {

// The whole of `text` as an integer.
template <typename T>
bool ParseInteger(std::string_view text, int base, T& value) {
  auto result = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

class TextCursor {
 public:
  TextCursor() = default;
  TextCursor(std::string_view line, int line_number) : line_(line), line_number_(line_number) { SkipSpace(); }

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }
  std::string_view rest() const { return line_.substr(position_); }
  bool AtEnd() const { return position_ >= line_.size(); }
  bool Peek(char c) const { return !AtEnd() && line_[position_] == c; }

  // Fails with "line 3, column 7: expected <what>, found '<rest>'".
  void Expected(std::string_view what);

  // Every Take skips the space that follows.
  void Take(std::string_view token);
  bool TakeIf(std::string_view token);
  bool TakeWord(std::string_view word);     // TakeIf of a whole identifier
  std::string_view PeekIdentifier() const;  // letters, digits and underscores; empty where there is none
  void TakeIdentifier();
  int64_t TakeInt(std::string_view what);
  uint64_t TakeHex();
  std::string_view TakeNumber(std::string_view what);  // the characters of an integer or a float
  std::string TakeString();                            // a quoted string, unescaped

 private:
  void SkipSpace();
  void Advance(size_t count);

  std::string_view line_;
  size_t position_ = 0;
  int line_number_ = 0;
  absl::Status status_;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_TEXT_CURSOR_H_
