// The verifier: whether CPython's evaluator can run a code object without reading or writing outside what the code
// object says it has. CPython itself checks nothing of this; a co_stacksize that is too small is memory corruption.
#ifndef FRAMEJIT_BYTECODE_VERIFY_H_
#define FRAMEJIT_BYTECODE_VERIFY_H_

#include <Python.h>

#include "absl/status/status.h"
#include "bytecode/decode.h"

namespace framejit {

// Checks that operands are in range, cells are used as cells, control does not run off the end, the exception table is
// ordered and on instruction boundaries, the stack neither underflows nor outgrows co_stacksize and has one depth
// wherever paths meet. InvalidArgument with one line for each problem (the stack is looked at only if the rest is
// right).
absl::Status Verify(const DecodedCode& decoded, PyCodeObject* code);
// Decodes first.
absl::Status VerifyCode(PyCodeObject* code);

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_VERIFY_H_
