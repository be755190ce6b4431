#include "graph/capture/break.h"

#include "absl/strings/str_cat.h"

namespace framejit {
namespace {

struct BreakRow {
  const char* name;
  BreakClass break_class;
  const char* message;
  const char* hint;
};

constexpr BreakRow kBreaks[] = {
#define BREAK(code, break_class, message, hint) {#code, BreakClass::break_class, message, hint},
#include "graph/capture/breaks.def"
#undef BREAK
};

const BreakRow& RowOf(BreakCode code) { return kBreaks[static_cast<size_t>(code)]; }

}  // namespace

std::string_view BreakCodeName(BreakCode code) { return RowOf(code).name; }
BreakClass BreakCodeClass(BreakCode code) { return RowOf(code).break_class; }
std::string_view BreakMessage(BreakCode code) { return RowOf(code).message; }
std::string_view BreakHint(BreakCode code) { return RowOf(code).hint; }

std::string Break::ToString() const {
  std::string text = "graph break: ";
  if (!stack.empty()) {
    const SourceLocation& where = stack.back();
    absl::StrAppend(&text, where.file, ":", where.line, " in ", where.function, ": ");
  }
  const BreakRow& row = RowOf(code);
  text += row.message;
  if (!detail.empty()) absl::StrAppend(&text, ": ", detail);
  absl::StrAppend(&text, " [", row.name, "]");
  if (*row.hint != 0) absl::StrAppend(&text, "; hint: ", row.hint);
  return text;
}

}  // namespace framejit
