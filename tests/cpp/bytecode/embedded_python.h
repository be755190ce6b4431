// An interpreter inside the test program, and code objects made from source.
#ifndef FRAMEJIT_TESTS_CPP_BYTECODE_EMBEDDED_PYTHON_H_
#define FRAMEJIT_TESTS_CPP_BYTECODE_EMBEDDED_PYTHON_H_

#include <Python.h>

#include <string>

#include "bytecode/decode.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

// The value of `code` after running `source`, which must end in the assignment of a code object to that name.
class TestCode {
 public:
  explicit TestCode(const std::string& source);

  PyCodeObject* get() const { return reinterpret_cast<PyCodeObject*>(object_.get()); }
  // Fails the test when the code does not decode.
  DecodedCode Decode() const;

 private:
  PyRef object_;
};

// The code of the function `f` that `source` defines.
TestCode FunctionCode(const std::string& source);
// The code of `f` with fields replaced, as in code.replace(<fields>).
TestCode ReplacedCode(const std::string& source, const std::string& fields);

// The number of the first instruction with that name; -1 if there is none.
int Find(const DecodedCode& code, std::string_view name, int from = 0);

}  // namespace framejit

#endif  // FRAMEJIT_TESTS_CPP_BYTECODE_EMBEDDED_PYTHON_H_
