// Recursion through C: Python code that calls a compiled function, which calls Python code, takes C stack for each call
// where plain Python calls take none. CPython's own limits on it are another in each minor, and none of them is the C
// stack's; here the limit is the C stack, and CPython's recursion limit stays what counts first.
#ifndef FRAMEJIT_FRAME_EVAL_CPYTHON_RECURSION_H_
#define FRAMEJIT_FRAME_EVAL_CPYTHON_RECURSION_H_

#include <Python.h>

namespace framejit {

// Whether so little of this thread's C stack is left that no Python code should be entered from C any more.
bool CStackIsLow();

// Whether a recording, which takes more frames and more C stack than what it records, has room enough here not to meet
// limits that the program itself would not.
bool HasRoomToRecord();

// Whether the recursion limit is so near that eager mode may reach it in frames that a recording does without.
bool RecursionLimitIsNear();

// Around a call of a Python function from C in place of a plain Python call: C recursion that CPython counts for it
// (3.12 on) is given back.
class PythonCallFromC {
 public:
  PythonCallFromC();
  ~PythonCallFromC();
  PythonCallFromC(const PythonCallFromC&) = delete;
  PythonCallFromC& operator=(const PythonCallFromC&) = delete;

  // Whether there is room for the call; false with a RecursionError set.
  bool allowed() const { return allowed_; }

 private:
  bool allowed_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_CPYTHON_RECURSION_H_
