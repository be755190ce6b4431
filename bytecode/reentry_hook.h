// The object through which a re-entry stub calls its hook: `~wrapper` is `hook()`.
#ifndef FRAMEJIT_BYTECODE_REENTRY_HOOK_H_
#define FRAMEJIT_BYTECODE_REENTRY_HOOK_H_

#include "frame_eval/cpython/py_ref.h"

namespace framejit {

// Null, with no Python exception left, when CPython failed.
PyRef WrapReentryHook(const PyRef& hook);

}  // namespace framejit

#endif  // FRAMEJIT_BYTECODE_REENTRY_HOOK_H_
