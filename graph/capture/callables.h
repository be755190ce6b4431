// The table of C callables (and a few Python functions) that a recording may call, and how. Everything that is neither
// here nor allowed by a class rule (call.cc) breaks. This file owns the look-up, not the behaviour.
#ifndef FRAMEJIT_GRAPH_CAPTURE_CALLABLES_H_
#define FRAMEJIT_GRAPH_CAPTURE_CALLABLES_H_

#include <Python.h>

#include <cstdint>
#include <optional>

namespace framejit {

enum class Treatment : uint8_t {
#define TREATMENT(name, description) k##name,
#include "graph/capture/treatments.def"
#undef TREATMENT
};

// How `callable` (compared by identity) is treated; nothing where it is not in the table. Requires the GIL.
std::optional<Treatment> FindCallable(PyObject* callable);
// Looks up the rows whose modules were imported since the last call.
void ResolveCallables();

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_CALLABLES_H_
