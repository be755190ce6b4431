// The PEP 523 hook: one evaluator of ours for the whole interpreter, at most one handler in each thread. It is
// installed while some thread has a handler and at no other time, because an installed evaluator costs all Python code.
// Installing and removing takes a few nanoseconds.
#ifndef FRAMEJIT_FRAME_EVAL_CPYTHON_EVALUATOR_HOOK_H_
#define FRAMEJIT_FRAME_EVAL_CPYTHON_EVALUATOR_HOOK_H_

#include <Python.h>

#include "frame_eval/cpython/shim.h"

namespace framejit {

// Evaluates a frame that starts or, in generators, goes on; the contract is that of _PyEval_EvalFrameDefault.
using FrameHandler = ShimEvaluator;

// Makes `handler` evaluate this thread's frames from now on, null nobody. Returns the one before. Requires the GIL.
FrameHandler SetFrameHandler(FrameHandler handler);
FrameHandler CurrentFrameHandler();

// For a handler that leaves the frame to whoever evaluated frames before us: another tool, or CPython.
PyObject* PassThrough(PyThreadState* thread, ShimFrame* frame, int throwflag);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_CPYTHON_EVALUATOR_HOOK_H_
