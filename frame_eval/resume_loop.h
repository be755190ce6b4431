// ResumeLoop: one call whose frames are left and entered in the middle. Runs the frames natively from where a trace
// left them; when a re-entry hook finds compiled code (or something to record) for what comes next, the frames are left
// with the marker, their state goes to the entry of that segment, and the loop goes on where the segment's trace leaves
// again. Nothing nests: a loop in the user's program is a loop here.
#ifndef FRAMEJIT_FRAME_EVAL_RESUME_LOOP_H_
#define FRAMEJIT_FRAME_EVAL_RESUME_LOOP_H_

#include <Python.h>

#include <memory>
#include <vector>

#include "frame_eval/armed.h"
#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/cpython/shim.h"
#include "graph/capture/resume.h"

namespace framejit {

// Creates framejit._C.Reentry. False with an exception set.
bool InitializeResumeLoop();
// A table whose functions come back to the ResumeLoop that runs them.
std::shared_ptr<ResumeTable> NewResumeTable();

class ResumeLoop {
 public:
  // `root`: the entry that is called, borrowed; it owns the segments.
  ResumeLoop(PyObject* root, std::shared_ptr<ResumeTable> table);
  ~ResumeLoop();
  ResumeLoop(const ResumeLoop&) = delete;
  ResumeLoop& operator=(const ResumeLoop&) = delete;

  // Goes on with a function of the table and its state, to the end of the call. A new reference, or null with an
  // exception set.
  PyObject* Run(PyRef function, PyRef state);

  // A re-entry hook was called by a running frame: whether the frames are to be left for a segment. No exception is
  // set.
  bool Leave(const Reentry& reentry);
  // The innermost frame has taken its state over.
  void Unpacked();
  const ResumeTable* table() const { return table_.get(); }
  // The loop of this thread that runs the innermost resumed frames, or null.
  static ResumeLoop* Current();

 private:
  struct Level {
    PyRef function;
    PyRef state;  // without the inner frame; null when it was let go of
  };
  void SetLevels(PyRef function, PyRef state);
  int CurrentLevel(ShimFrame* frame) const;
  PyRef WithOwnOffsets(const PyRef& function, const PyRef& state) const;
  bool HandlesAsEntered(const Reentry& reentry, ShimFrame* running, int level) const;
  void KeepFrameObjects(ShimFrame* running);
  void ClearFrameObjects();
  bool Capture(const Reentry& reentry, ShimFrame* frame, PyObject* entered_with, ResumePoint* point,
               PyRef* state) const;

  PyObject* root_;
  std::shared_ptr<ResumeTable> table_;
  ResumeLoop* previous_;
  ShimFrame* base_frame_;        // below the frames of this loop; compared, never used
  PyObject* handled_exception_;  // likewise
  std::vector<Level> levels_;    // the frames as they were entered, outermost first
  Armed* armed_ = nullptr;       // while they run
  PyRef state_;                  // that the frames are being entered with
  PyRef pending_segment_;        // an entry, and its argument
  PyRef pending_state_;
  std::vector<PyRef> left_frames_;  // frame objects of the frames that are being left
  bool stays_native_ = false;       // something could not be recorded: the rest of the call runs in the interpreter
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_RESUME_LOOP_H_
