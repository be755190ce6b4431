// The textual form of decoded code: the variables, one line for each instruction with what its operand names, labels
// for targets, then the exception table; bytecode/parse.h reads it back. For FRAMEJIT_LOG=bytecode and for tests.
// Offsets are in bytes, as dis and f_lasti count.
#ifndef FRAMEJIT_BYTECODE_PRINT_H_
#define FRAMEJIT_BYTECODE_PRINT_H_

#include <Python.h>

#include <string>

#include "bytecode/decode.h"

namespace framejit {

// Never fails: what cannot be shown is shown as "?". Runs no code of the user's (constants are immutable built-ins).
std::string PrintCode(const DecodedCode& decoded, PyCodeObject* code);

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_PRINT_H_
