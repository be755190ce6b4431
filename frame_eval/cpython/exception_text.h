// TakeExceptionText: what the exception that is set says.
#ifndef FRAMEJIT_FRAME_EVAL_CPYTHON_EXCEPTION_TEXT_H_
#define FRAMEJIT_FRAME_EVAL_CPYTHON_EXCEPTION_TEXT_H_

#include <string>

namespace framejit {

// "<Type>: <message>", or "<Type>" where there is no message or none that can be shown. Empty where no exception is
// set. None is set afterwards. Requires the GIL.
std::string TakeExceptionText();

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_CPYTHON_EXCEPTION_TEXT_H_
