// Faults of framejit itself that a program does not see, since it runs in the interpreter instead.
#ifndef FRAMEJIT_FRAME_EVAL_INTERNAL_ERRORS_H_
#define FRAMEJIT_FRAME_EVAL_INTERNAL_ERRORS_H_

#include <cstdint>
#include <string>

namespace framejit {

// Warns, once of each, and counts; from any thread.
void ReportInternalError(const std::string& what);
// One that is told otherwise.
void CountInternalError();
int64_t InternalErrors();

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_INTERNAL_ERRORS_H_
