#include "frame_eval/cpython/recursion.h"

#include <pthread.h>

#include <algorithm>
#include <cstdint>

#include "frame_eval/cpython/shim.h"

namespace framejit {
namespace {

// What the code that is entered last may use of the C stack, at least: torch's kernels are part of it.
constexpr size_t kReserve = 256 * 1024;
// What a recording may use: frames of the recursion limit (C frames count on 3.11), and C stack.
constexpr int kFramesToRecord = 300;
constexpr size_t kStackToRecord = 1024 * 1024;
// Of the C recursion counter, per call: Python/ceval.c, PY_EVAL_C_STACK_UNITS.
constexpr int kUnits = 2;
// Frames that a recording may have inside.
constexpr int kNearLimit = 32;

struct CStack {
  uintptr_t begin = 0;  // the lowest address; the stack grows down to it
  size_t size = 0;

  CStack() {
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
    void* address = nullptr;
    if (pthread_attr_getstack(&attributes, &address, &size) == 0) begin = reinterpret_cast<uintptr_t>(address);
    pthread_attr_destroy(&attributes);
  }
};

// Whether less is left than `reserve` and than a `fraction` of all. Code on a stack of its own (a coroutine library's)
// is outside of the thread's: nothing is known of that one.
bool IsLessLeft(size_t reserve, size_t fraction) {
  static thread_local const CStack stack;
  const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  return here >= stack.begin && here < stack.begin + std::min(reserve, stack.size / fraction);
}

}  // namespace

bool CStackIsLow() { return IsLessLeft(kReserve, 4); }

bool HasRoomToRecord() {
  return ShimRecursionRemaining(PyThreadState_Get()) > kFramesToRecord && !IsLessLeft(kStackToRecord, 2);
}

bool RecursionLimitIsNear() { return ShimRecursionRemaining(PyThreadState_Get()) < kNearLimit; }

PythonCallFromC::PythonCallFromC() : allowed_(!CStackIsLow()) {
  ShimAddCRecursion(PyThreadState_Get(), kUnits);
  if (!allowed_) PyErr_SetString(PyExc_RecursionError, "maximum recursion depth exceeded: the C stack is used up");
}

PythonCallFromC::~PythonCallFromC() { ShimAddCRecursion(PyThreadState_Get(), -kUnits); }

}  // namespace framejit
