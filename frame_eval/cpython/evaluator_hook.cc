#include "frame_eval/cpython/evaluator_hook.h"

#include <atomic>
#include <utility>

namespace framejit {
namespace {

// Threads with a handler. A thread that ends with one leaves without the GIL; the hook itself removes itself then.
std::atomic<int> armed_threads{0};

thread_local FrameHandler thread_handler = nullptr;
thread_local ShimFrame* passing = nullptr;  // a frame that was passed on and did not start yet

struct ThreadEnd {
  ~ThreadEnd() {
    if (thread_handler != nullptr) --armed_threads;
  }
};

// Who evaluated frames before the hook was installed: at first, and the last time. They differ where another tool
// installed itself over the hook and stayed. The GIL guards both.
ShimEvaluator first_evaluator = nullptr;
ShimEvaluator previous_evaluator = nullptr;

PyObject* Hook(PyThreadState* thread, ShimFrame* frame, int throwflag);

void Install() {
  ShimEvaluator previous = ShimInstallEvaluator(PyInterpreterState_Get(), &Hook);
  if (previous == nullptr) return;
  if (first_evaluator == nullptr) first_evaluator = previous;
  previous_evaluator = previous;
}

// Another tool's evaluator over ours chains to it, so ours stays until that one is gone.
void Remove() { ShimRemoveEvaluator(PyInterpreterState_Get(), &Hook, previous_evaluator); }

PyObject* Hook(PyThreadState* thread, ShimFrame* frame, int throwflag) {
  // Came back through a tool that had put itself over the hook, before the hook was installed over it in turn.
  if (passing == frame) {
    passing = nullptr;
    return ShimEvalPassThrough(first_evaluator, thread, frame, throwflag);
  }
  if (thread_handler != nullptr) return thread_handler(thread, frame, throwflag);
  if (armed_threads.load(std::memory_order_relaxed) == 0) Remove();
  return PassThrough(thread, frame, throwflag);
}

}  // namespace

FrameHandler CurrentFrameHandler() { return thread_handler; }

FrameHandler SetFrameHandler(FrameHandler handler) {
  FrameHandler before = std::exchange(thread_handler, handler);
  if (handler != nullptr) {
    static thread_local ThreadEnd end;
    if (before == nullptr) ++armed_threads;
    Install();
  } else if (before != nullptr && --armed_threads == 0) {
    Remove();
  }
  return before;
}

PyObject* PassThrough(PyThreadState* thread, ShimFrame* frame, int throwflag) {
  if (previous_evaluator == first_evaluator) return ShimEvalPassThrough(first_evaluator, thread, frame, throwflag);
  passing = frame;
  PyObject* result = ShimEvalPassThrough(previous_evaluator, thread, frame, throwflag);
  if (passing == frame) passing = nullptr;
  return result;
}

}  // namespace framejit
