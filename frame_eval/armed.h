// Functions that nobody decorated. Where a thread is armed (behind a break, for the extent of what runs natively; in a
// region of framejit.enable()), the frames that start there are looked at through the PEP 523 hook: one that is given
// tensors is handed to an entry of its own, all others run as they are.
#ifndef FRAMEJIT_FRAME_EVAL_ARMED_H_
#define FRAMEJIT_FRAME_EVAL_ARMED_H_

#include <Python.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "frame_eval/compile.h"
#include "frame_eval/cpython/evaluator_hook.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

// Who arms: an entry or a region. It keeps the entries of the functions that were captured for it; they are shared
// between all who arm with the same options, and go with the last of them. Guarded by the GIL.
struct InnerEntries {
  CompileOptions options;
  absl::flat_hash_set<PyObject*> entries;  // owned

  explicit InnerEntries(CompileOptions inner_options);
  ~InnerEntries() { Clear(); }
  InnerEntries(const InnerEntries&) = delete;
  InnerEntries& operator=(const InnerEntries&) = delete;
  void Clear();
};

// Disarms this thread for the time that the object lives. A region that was begun or ended meanwhile stays so, here and
// for Armed.
class Unarmed {
 public:
  Unarmed();
  ~Unarmed();
  Unarmed(const Unarmed&) = delete;
  Unarmed& operator=(const Unarmed&) = delete;

 private:
  FrameHandler handler_;
  InnerEntries* inner_;
  InnerEntries* region_;
};

// Forgets in whose extent nothing was captured.
void ForgetBarren();

// Arms this thread for the time that the object lives, from Begin on. Code in whose extent nothing was captured the
// last times is run without.
class Armed {
 public:
  // `code`: in whose extent. Both outlive the object; `inner` null: never.
  Armed(InnerEntries* inner, PyCodeObject* code) : inner_(inner), code_(code) {}
  ~Armed();
  Armed(const Armed&) = delete;
  Armed& operator=(const Armed&) = delete;

  // `is_next`: the frame of `code` starts now. It is not to be captured.
  void Begin(bool is_next);

 private:
  InnerEntries* inner_;
  PyCodeObject* code_;
  std::optional<Unarmed> before_;  // what to go back to
  int64_t captured_ = 0;
};

// Arms this thread until the next call; null: no more. Returns the region before. A region lives for ever: a thread may
// end inside.
InnerEntries* SetRegion(InnerEntries* region);

// Which files' functions are captured: the longest of these that their name begins with says; where none does, they
// are.
struct PathRule {
  std::string prefix;
  bool captured;
};
void SetPathRules(std::vector<PathRule> rules);

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_ARMED_H_
