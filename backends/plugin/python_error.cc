#include "backends/plugin/python_error.h"

#include "absl/strings/str_cat.h"
#include "frame_eval/cpython/exception_text.h"

namespace framejit {

absl::Status TakePythonError(const std::string& doing) {
  const std::string text = TakeExceptionText();
  return absl::InternalError(absl::StrCat(doing, ": ", text.empty() ? "failed without an exception" : text));
}

}  // namespace framejit
