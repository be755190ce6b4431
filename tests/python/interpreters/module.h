// What the parts of the test module share.
#ifndef FRAMEJIT_TESTS_PYTHON_INTERPRETERS_MODULE_H_
#define FRAMEJIT_TESTS_PYTHON_INTERPRETERS_MODULE_H_

#include <Python.h>

#include "absl/status/status.h"

namespace framejit {

// Hook, frames, types and objects (module_objects.cc).
extern PyMethodDef kObjectMethods[];
// Encoding and rewriting (module_rewrite.cc).
extern PyMethodDef kRewriteMethods[];

// Null, for `return`: raises ValueError with the status' message.
PyObject* RaiseStatus(const absl::Status& status);
// Whether `object` is a code object; raises TypeError if not.
bool CheckIsCode(PyObject* object);
// Appends a new reference (null: failure) and releases it; whether that worked.
bool AppendNew(PyObject* list, PyObject* item);

}  // namespace framejit

#endif  // FRAMEJIT_TESTS_PYTHON_INTERPRETERS_MODULE_H_
