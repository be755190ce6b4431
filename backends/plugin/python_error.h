// Python exceptions as statuses, for code that calls backends written in Python.
#ifndef FRAMEJIT_BACKENDS_PLUGIN_PYTHON_ERROR_H_
#define FRAMEJIT_BACKENDS_PLUGIN_PYTHON_ERROR_H_

#include <string>

#include "absl/status/status.h"

namespace framejit {

// Takes the exception that is set, and leaves none: "<doing>: <Type>: <message>". Requires the GIL.
absl::Status TakePythonError(const std::string& doing);

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_PLUGIN_PYTHON_ERROR_H_
