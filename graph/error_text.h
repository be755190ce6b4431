// ErrorText: what an exception says, without the C++ stack of torch's errors: naming the symbols of one takes ten
// milliseconds, and it says nothing to users.
#ifndef FRAMEJIT_GRAPH_ERROR_TEXT_H_
#define FRAMEJIT_GRAPH_ERROR_TEXT_H_

#include <c10/util/Exception.h>

#include <string>

namespace framejit {

inline std::string ErrorText(const std::exception& error) {
  const auto* of_torch = dynamic_cast<const c10::Error*>(&error);
  return of_torch == nullptr ? error.what() : of_torch->what_without_backtrace();
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_ERROR_TEXT_H_
