// What runs natively in the middle of a recording: Python code that is none of the program's computation.
#ifndef FRAMEJIT_GRAPH_CAPTURE_UNRECORDED_H_
#define FRAMEJIT_GRAPH_CAPTURE_UNRECORDED_H_

#include "graph/capture/evaluator.h"
#include "graph/capture/recorder_impl.h"

namespace framejit {

// Frames that start in its lifetime are not recorded. Operators on fakes still are.
class Disarmed {
 public:
  Disarmed() : armed_(RecordingHook::Arm(false)) {}
  ~Disarmed() { RecordingHook::Arm(armed_); }
  Disarmed(const Disarmed&) = delete;
  Disarmed& operator=(const Disarmed&) = delete;

 private:
  bool armed_;
};

// The call made for real: neither its frames nor its operators are recorded.
inline PyObject* CallUnrecorded(const NativeCall& call) {
  FakeSession::Pause pause;
  Disarmed disarmed;
  return PyObject_Vectorcall(call.callable, call.args, static_cast<size_t>(call.nargs), call.kwnames);
}

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_UNRECORDED_H_
