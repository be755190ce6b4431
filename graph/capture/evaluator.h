// The evaluator: executes one interpreter frame's bytecode with RecorderState's protocol functions. Same contract as
// _PyEval_EvalFrameDefault of the running minor.
#ifndef FRAMEJIT_GRAPH_CAPTURE_EVALUATOR_H_
#define FRAMEJIT_GRAPH_CAPTURE_EVALUATOR_H_

#include <Python.h>

#include "graph/capture/recorder_state.h"

struct _PyInterpreterFrame;

namespace framejit {

PyObject* EvaluateFrame(RecorderState& recorder, PyThreadState* thread, _PyInterpreterFrame* frame, int throwflag);

// While alive, Python frames of this thread are evaluated by `recorder`.
class RecordingHook {
 public:
  explicit RecordingHook(RecorderState& recorder);
  ~RecordingHook();
  RecordingHook(const RecordingHook&) = delete;
  RecordingHook& operator=(const RecordingHook&) = delete;

  // Turns evaluation by the recorder off or on in this thread; returns the previous state.
  static bool Arm(bool armed);
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_EVALUATOR_H_
