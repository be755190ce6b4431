// A GuardProgram decides, natively and without running user code, whether a recording still holds for a call, and hands
// out the objects its sources name. It never keeps a user's object alive.
//
// Shape: a tree by source, so that each object is fetched once. After a full walk that passed, a flat list of
// (container, version) pairs, types and tensor checks stands for the walk: while no container on the way changed, the
// objects beneath it are the same ones, so only that list is checked (dict and type version tags). Any mismatch
// falls back to the full walk, which rebuilds the list.
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_PROGRAM_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_PROGRAM_H_

#include <Python.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "frame_eval/guards/guard.h"
#include "frame_eval/guards/source.h"

namespace framejit {

// The state a call enters with. Borrowed for the duration of the call.
struct CallState {
  PyObject* function = nullptr;       // the entry function object
  absl::Span<PyObject* const> slots;  // parameter slots after binding; null where the default applies
  bool function_varies = false;       // another call may bring another function of the same code and globals
};

enum class GuardResult : uint8_t { kPass, kFail, kError };  // kError: a Python exception is set

class GuardProgram {
 public:
  // `fetch` lists the sources whose objects the caller needs after a pass (graph inputs, recipes, effects), in the
  // order in which Fetched() returns them. Every guard must hold for `state` now; a guard that does not (the recording
  // raced with a change) is an error that names it.
  static absl::StatusOr<std::unique_ptr<GuardProgram>> Build(const SourceTable& sources, const GuardList& guards,
                                                             absl::Span<const SourceId> fetch, const CallState& state,
                                                             std::vector<std::string> argument_names);
  virtual ~GuardProgram() = default;

  // Requires the GIL, and releases it never. On kPass, Fetched() is valid until the next Python code runs.
  virtual GuardResult Check(const CallState& state) = 0;
  // Borrowed objects in the order of `fetch`.
  virtual absl::Span<PyObject* const> Fetched() const = 0;
  // Drops what Check had to make in order to fetch it (results of native getters). Fetched() is invalid afterwards.
  virtual void Release() = 0;
  // One line: the first guard that fails for `state` and why. For the recompile log; runs the full walk.
  virtual std::string ExplainFailure(const CallState& state) = 0;
  // One line per guard, with its cost class, for FRAMEJIT_LOG=guards and explain().
  virtual std::string ToString() const = 0;
  // Number of checks a warm call makes (the flat list), for explain().
  virtual size_t WarmCheckCount() const = 0;
  // For the owner's tp_traverse / tp_clear: visits the strongly held objects (globals dicts, constants).
  virtual int Traverse(visitproc visit, void* arg) = 0;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_PROGRAM_H_
