// Sources: the interned tree of places values come from. A recording keys everything it knows about an outside object
// by its source; guards check sources; graph inputs and recipes are fetched through them. This file owns the tree and
// its printed form, not how a source is fetched (guard_program.h).
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_SOURCE_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_SOURCE_H_

#include <Python.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "frame_eval/cpython/py_ref.h"

namespace framejit {

enum class SourceKind : uint8_t {
#define SOURCE(kind, has_parent, description) k##kind,
#include "frame_eval/guards/sources.def"
#undef SOURCE
};

std::string_view SourceKindName(SourceKind kind);
bool SourceHasParent(SourceKind kind);
// How one source reads, given how its parent reads. `key` may be null where it is gone.
std::string SourceText(SourceKind kind, const std::string& parent, PyObject* key, int32_t index,
                       const std::vector<std::string>& argument_names);
// repr() of constants, a name or an address of anything else. Never runs user code, never leaves an exception.
std::string ObjectText(PyObject* object);

using SourceId = int32_t;
inline constexpr SourceId kNoSource = -1;

struct Source {
  SourceKind kind;
  SourceId parent = kNoSource;
  PyRef key;           // name, dict key or pinned object; null where the kind has none
  int32_t index = -1;  // slot, position or cell number; -1 where the kind has none
};

// Interned, append-only; a parent always has a smaller id than its children. Dict keys are compared with type and value
// (so 1, 1.0 and True are three keys) and only exact str, int, bool, float, bytes, None, tuples of these, and objects
// compared by identity may be keys.
class SourceTable {
 public:
  SourceId Intern(SourceKind kind, SourceId parent, PyObject* key = nullptr, int32_t index = -1);
  const Source& operator[](SourceId id) const { return sources_[static_cast<size_t>(id)]; }
  size_t size() const { return sources_.size(); }
  // As a reader would write it, e.g. `L['self'].__dict__['_modules']['fc']` or `G['SCALE']`.
  // `argument_names` names the slots of the entry function; slots beyond it print as `arg3`.
  std::string ToString(SourceId id, const std::vector<std::string>& argument_names = {}) const;

 private:
  struct Key {
    uint64_t shape;  // kind, parent, index
    PyObject* key;   // by identity after canonicalisation through key_canon_
    bool operator==(const Key& other) const { return shape == other.shape && key == other.key; }
    template <typename H>
    friend H AbslHashValue(H h, const Key& k) {
      return H::combine(std::move(h), k.shape, k.key);
    }
  };
  std::vector<Source> sources_;
  absl::flat_hash_map<Key, SourceId> index_;
  PyRef key_canon_;  // dict: (type, key) -> key, so that equal keys are one object
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_SOURCE_H_
