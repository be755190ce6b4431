// sys.monitoring, which came with CPython 3.12: whether a tool looks at single code objects. Implemented as shim.h is;
// on 3.11 there are no tools.
#ifndef FRAMEJIT_FRAME_EVAL_CPYTHON_MONITORING_H_
#define FRAMEJIT_FRAME_EVAL_CPYTHON_MONITORING_H_

#include <Python.h>

#ifdef __cplusplus
extern "C" {
#endif

// Whether some tool has an id, so that code objects may have events of their own.
int ShimToolInUse(void);
// Whether a tool asked for events of this very code object.
int ShimIsMonitored(PyCodeObject* code);
// Where the code object keeps what tools asked for; it holds null while none ever did. Null on 3.11.
void* const* ShimMonitoringSlot(PyCodeObject* code);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // FRAMEJIT_FRAME_EVAL_CPYTHON_MONITORING_H_
