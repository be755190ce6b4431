// The compiled guards of one recording as a tree by source: what to fetch, what to check on it, and the full walk that
// does both. The flat list that usually stands for the walk is flat_list.h's.
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_TREE_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_TREE_H_

#include <Python.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "frame_eval/guards/guard.h"
#include "frame_eval/guards/guard_fetch.h"
#include "frame_eval/guards/guard_program.h"
#include "frame_eval/guards/tensor_check.h"
#include "frame_eval/guards/torch_state.h"

namespace framejit {

struct GuardCheck {
  GuardKind kind;
  int32_t node = -1;  // -1: the guard has no source
  Holder payload;
  PyObject* identity = nullptr;  // the payload's address, compared and never dereferenced
  int64_t number = 0;            // LengthIs; TypeVersion: the version
  int32_t other = -1;            // SameObject, NotSameObject: a node
  int32_t tensor = -1;           // TensorMatches: index into tensor_checks
  Py_hash_t hash = -1;           // KeyPresent, KeyAbsent
};

struct GuardNode {
  FetchKey source;
  int32_t parent = -1;
  int32_t first_check = 0;  // into GuardTree::checks
  int32_t check_count = 0;
  int32_t first_child = 0;  // into GuardTree::children
  int32_t child_count = 0;
  bool required = false;  // its object is fetched for the caller

  bool leaf() const { return child_count == 0; }
};

// Objects by node, borrowed; null where a source has none.
using GuardObjects = std::vector<PyObject*>;

struct GuardTree {
  std::vector<GuardNode> nodes;  // parents before children
  std::vector<int32_t> children;
  std::vector<GuardCheck> checks;   // grouped by node
  std::vector<GuardCheck> pairs;    // SameObject, NotSameObject
  std::vector<GuardCheck> ambient;  // TypeVersion
  std::vector<TensorCheck> tensor_checks;
  std::vector<int32_t> fetch;  // nodes, in the order of the caller's list
  std::optional<TorchState> torch_state;
  bool no_overlap = false;
  std::vector<std::string> argument_names;

  static absl::StatusOr<GuardTree> Make(const SourceTable& sources, const GuardList& guards,
                                        absl::Span<const SourceId> fetch_sources,
                                        std::vector<std::string> argument_names);

  // True where one check holds for `object`, which may be null.
  bool Holds(const GuardCheck& check, PyObject* object) const;
  // All checks of a node; `failed` (may be null) receives the first that does not hold.
  bool NodeHolds(int32_t node, PyObject* object, const GuardCheck** failed = nullptr) const;
  bool PairHolds(const GuardCheck& check, const GuardObjects& objects) const;
  static bool TypeVersionHolds(const GuardCheck& check);
  // No two different tensors among the inputs share memory.
  bool InputsAreDisjoint(const GuardObjects& objects) const;

  // Fetches and checks everything. On failure `reason`, where given, says why.
  bool Walk(const CallState& state, GuardObjects& objects, std::vector<PyRef>& owned, std::string* reason) const;

  std::string NodeText(int32_t node) const;
  std::string CheckText(const GuardCheck& check) const;
  std::string FailureText(const GuardCheck& check, const GuardObjects& objects) const;
  std::string ToString() const;
  int Traverse(visitproc visit, void* arg) const;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_GUARD_TREE_H_
