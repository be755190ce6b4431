// The evaluator: executes one interpreter frame's bytecode with RecorderState's protocol functions. Same contract as
// _PyEval_EvalFrameDefault of the running minor.
#ifndef FRAMEJIT_GRAPH_CAPTURE_EVALUATOR_H_
#define FRAMEJIT_GRAPH_CAPTURE_EVALUATOR_H_

#include <Python.h>

#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/cpython/shim.h"
#include "graph/capture/recorder_state.h"

namespace framejit {

PyObject* EvaluateFrame(RecorderState& recorder, PyThreadState* thread, ShimFrame* frame, int throwflag);

// The exception that is set, as an object that has its traceback, or null. It is set no longer.
PyRef TakeException();

// While alive, Python frames of this thread are evaluated by `recorder`: the frame of `entry_function` that comes first
// is the entry frame, whose parameters are lifted from the request; generators run to their creation natively and are
// recorded when they are resumed.
class RecordingHook {
 public:
  RecordingHook(RecorderState& recorder, PyObject* entry_function);
  ~RecordingHook();
  RecordingHook(const RecordingHook&) = delete;
  RecordingHook& operator=(const RecordingHook&) = delete;

  // Turns evaluation by the recorder off or on in this thread; returns the previous state.
  static bool Arm(bool armed);
  // Frames of torch's function transforms run natively while it is on, until one of another file is evaluated; returns
  // the previous state.
  static bool EnterTransform(bool entered);
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_EVALUATOR_H_
