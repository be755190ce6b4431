#include "graph/text_cursor.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace framejit {

void TextCursor::SkipSpace() {
  while (!AtEnd() && absl::ascii_isspace(static_cast<unsigned char>(line_[position_]))) ++position_;
}

void TextCursor::Advance(size_t count) {
  position_ = std::min(position_ + count, line_.size());
  SkipSpace();
}

void TextCursor::Expected(std::string_view what) {
  if (!ok()) return;
  std::string found = AtEnd() ? "the end of the line" : "'" + std::string(rest().substr(0, 40)) + "'";
  status_ = absl::InvalidArgumentError(absl::StrCat("line ", line_number_, ", column ", position_ + 1, ": expected ",
                                                    std::string(what), ", found ", found));
}

bool TextCursor::TakeIf(std::string_view token) {
  if (!ok() || rest().substr(0, token.size()) != token) return false;
  Advance(token.size());
  return true;
}

void TextCursor::Take(std::string_view token) {
  if (!TakeIf(token)) Expected("'" + std::string(token) + "'");
}

std::string_view TextCursor::PeekIdentifier() const {
  size_t end = position_;
  while (end < line_.size() && (absl::ascii_isalnum(static_cast<unsigned char>(line_[end])) || line_[end] == '_'))
    ++end;
  return line_.substr(position_, end - position_);
}

bool TextCursor::TakeWord(std::string_view word) {
  if (!ok() || PeekIdentifier() != word) return false;
  Advance(word.size());
  return true;
}

void TextCursor::TakeIdentifier() {
  if (ok()) Advance(PeekIdentifier().size());
}

std::string_view TextCursor::TakeNumber(std::string_view what) {
  if (!ok()) return {};
  auto belongs = [](char previous, char c) {
    if (absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '.' || c == 'e') return true;
    return (c == '-' || c == '+') && (previous == 0 || previous == 'e');
  };
  size_t end = position_;
  char previous = 0;
  while (end < line_.size() && belongs(previous, line_[end])) previous = line_[end++];
  std::string_view text = line_.substr(position_, end - position_);
  bool has_digit = text.find_first_of("0123456789") != std::string_view::npos;
  if (!has_digit || text[0] == 'e') {
    Expected(what);
    return {};
  }
  Advance(text.size());
  return text;
}

int64_t TextCursor::TakeInt(std::string_view what) {
  TextCursor before = *this;
  std::string_view text = TakeNumber(what);
  int64_t value = 0;
  if (!ok() || ParseInteger(text, 10, value)) return value;
  *this = before;
  Expected(what);
  return 0;
}

uint64_t TextCursor::TakeHex() {
  uint64_t value = 0;
  if (!ok()) return value;
  std::string_view digits = PeekIdentifier();
  if (!ParseInteger(digits, 16, value)) {
    Expected("hexadecimal digits");
    return 0;
  }
  Advance(digits.size());
  return value;
}

std::string TextCursor::TakeString() {
  std::string text;
  if (!ok() || !Peek('"')) {
    Expected("a string in double quotes");
    return text;
  }
  for (size_t i = position_ + 1; i < line_.size(); ++i) {
    char c = line_[i];
    if (c == '"') {
      Advance(i + 1 - position_);
      return text;
    }
    if (c == '\\' && i + 1 < line_.size()) {
      c = line_[++i];
      uint32_t code = 0;
      if (c == 'x' && ParseInteger(line_.substr(i + 1, 2), 16, code)) {
        c = static_cast<char>(code);
        i += 2;
      }
    }
    text += c;
  }
  Expected("a closing quote");
  return text;
}

}  // namespace framejit
