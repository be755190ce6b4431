// Watches: where CPython reports changes (3.12 on), a set of dicts and types stands behind one flag, in place of a
// version that is compared for each of them on each call.
//
// Functions are not watched: their watchers are told of every function that is made in the process, which plain Python
// code would pay for.
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_WATCHES_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_WATCHES_H_

#include <Python.h>

#include <cstdint>
#include <vector>

namespace framejit {

// Requires the GIL.
class WatchSet {
 public:
  WatchSet() = default;
  ~WatchSet() { Clear(); }
  WatchSet(const WatchSet&) = delete;
  WatchSet& operator=(const WatchSet&) = delete;

  // From now on a change of the object, or its end, trips the set. False where it cannot be watched. `owner`: what
  // tripped_by() says then.
  bool WatchDict(PyObject* dict, int32_t owner);
  // `type` has a version.
  bool WatchType(PyTypeObject* type, int32_t owner);
  // Watches nothing, and is not tripped.
  void Clear();

  bool tripped() const { return tripped_; }
  // The owner of what changed first.
  int32_t tripped_by() const { return tripped_by_; }

 private:
  friend struct WatchRegistry;
  struct Watched {
    PyObject* object;  // alive unless the set is tripped
    int32_t owner;
    bool is_type;
  };

  std::vector<Watched> watched_;
  bool tripped_ = false;
  int32_t tripped_by_ = -1;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_WATCHES_H_
