#include "frame_eval/cpython/recursion.h"

#include <pthread.h>

#include <algorithm>
#include <cstdint>

#include "frame_eval/cpython/shim.h"

namespace framejit {
namespace {

// What the code that is entered last may use of the C stack, at least: torch's kernels are part of it.
constexpr size_t kReserve = 256 * 1024;
// Of the C recursion counter, per call: Python/ceval.c, PY_EVAL_C_STACK_UNITS.
constexpr int kUnits = 2;
// Frames that a recording may have inside.
constexpr int kNearLimit = 32;

struct CStack {
  uintptr_t begin = 0;  // the lowest address; the stack grows down to it
  uintptr_t low = 0;    // below it, the stack is low

  CStack() {
    pthread_attr_t attributes;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
    void* address = nullptr;
    size_t size = 0;
    if (pthread_attr_getstack(&attributes, &address, &size) == 0) {
      begin = reinterpret_cast<uintptr_t>(address);
      low = begin + std::min(kReserve, size / 4);
    }
    pthread_attr_destroy(&attributes);
  }
};

}  // namespace

// Code on a stack of its own (a coroutine library's) is outside of the thread's: nothing is known of that one.
bool CStackIsLow() {
  static thread_local const CStack stack;
  const auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  return here >= stack.begin && here < stack.low;
}

bool RecursionLimitIsNear() {
#if PY_VERSION_HEX >= 0x030C0000
  return PyThreadState_Get()->py_recursion_remaining < kNearLimit;
#else
  return PyThreadState_Get()->recursion_remaining < kNearLimit;
#endif
}

PythonCallFromC::PythonCallFromC() : allowed_(!CStackIsLow()) {
  ShimAddCRecursion(PyThreadState_Get(), kUnits);
  if (!allowed_) PyErr_SetString(PyExc_RecursionError, "maximum recursion depth exceeded: the C stack is used up");
}

PythonCallFromC::~PythonCallFromC() { ShimAddCRecursion(PyThreadState_Get(), -kUnits); }

}  // namespace framejit
