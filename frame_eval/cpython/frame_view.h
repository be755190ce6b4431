// FrameView: C++ names for the operations of shim.h on one interpreter frame. It owns nothing and is valid as long as
// the frame is. No CPython internals here.
#ifndef FRAMEJIT_FRAME_EVAL_CPYTHON_FRAME_VIEW_H_
#define FRAMEJIT_FRAME_EVAL_CPYTHON_FRAME_VIEW_H_

#include <Python.h>

#include <span>

#include "frame_eval/cpython/shim.h"

namespace framejit {

class FrameView {
 public:
  explicit FrameView(ShimFrame* frame) : frame_(frame) {}

  ShimFrame* get() const { return frame_; }
  PyCodeObject* code() const { return ShimFrameCode(frame_); }
  PyFunctionObject* function() const { return ShimFrameFunction(frame_); }
  PyObject* globals() const { return ShimFrameGlobals(frame_); }
  PyObject* builtins() const { return ShimFrameBuiltins(frame_); }
  FrameView previous() const { return FrameView(ShimFramePrevious(frame_)); }
  explicit operator bool() const { return frame_ != nullptr; }

  PyObject** localsplus() const { return ShimFrameLocalsplus(frame_); }
  std::span<PyObject*> locals() const { return {localsplus(), static_cast<size_t>(code()->co_nlocalsplus)}; }
  PyObject** stack_base() const { return localsplus() + code()->co_nlocalsplus; }
  int stacktop() const { return ShimFrameStacktop(frame_); }
  void set_stacktop(int stacktop) { ShimFrameSetStacktop(frame_, stacktop); }

  int next_offset() const { return ShimFrameNextOffset(frame_); }
  void set_next_offset(int offset) { ShimFrameSetNextOffset(frame_, offset); }
  int lasti() const { return ShimFrameLasti(frame_); }
  ShimCodeUnit** instruction_slot() const { return ShimFrameInstructionSlot(frame_); }
  bool is_at_entry() const { return ShimFrameIsAtEntry(frame_) != 0; }

  bool is_generators() const { return ShimFrameIsGenerators(frame_) != 0; }
  PyObject* generator() const { return ShimFrameGenerator(frame_); }

 private:
  ShimFrame* frame_;
};

// Makes a frame the thread's current one while an evaluator of our own runs it.
class FrameEntry {
 public:
  FrameEntry(PyThreadState* thread, FrameView frame) : thread_(thread) { ShimEnterFrame(thread, frame.get(), &entry_); }
  ~FrameEntry() { ShimLeaveFrame(thread_, &entry_); }
  FrameEntry(const FrameEntry&) = delete;
  FrameEntry& operator=(const FrameEntry&) = delete;

 private:
  PyThreadState* thread_;
  ShimEntry entry_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_CPYTHON_FRAME_VIEW_H_
