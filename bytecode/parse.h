// The inverse of PrintCode: a code object from its textual form. For tests: it evaluates the constants'
// representations, so the text must be one's own. What the text does not say is filled in: no arguments, a function's
// flags, no columns; names and constants that no instruction uses are empty; a nested code object is one of that name
// that does nothing.
#ifndef FRAMEJIT_BYTECODE_PARSE_H_
#define FRAMEJIT_BYTECODE_PARSE_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

// InvalidArgument, naming the line, when the text is no such form or the code is not right (as BuildCode); Internal
// when CPython failed. No Python exception is left.
absl::StatusOr<PyRef> ParseCode(std::string_view text);

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_PARSE_H_
