// What the two halves of the test module share.
#ifndef FRAMEJIT_TESTS_PYTHON_INTERPRETERS_MODULE_H_
#define FRAMEJIT_TESTS_PYTHON_INTERPRETERS_MODULE_H_

#include <Python.h>

namespace framejit {

// Hook, frames, types and objects (module_objects.cc).
extern PyMethodDef kObjectMethods[];

}  // namespace framejit

#endif  // FRAMEJIT_TESTS_PYTHON_INTERPRETERS_MODULE_H_
