// FlatList: what a warm call checks in place of the full walk.
//
// The walk is the specification; the list stands for it under one argument, made for each node in turn. A node is
// *stable* where "the checks so far passed" implies that it is the very object of the last walk, never freed in
// between: the entry function (where it does not vary); what a live weak reference names; an item of a dict whose
// version is unchanged (versions are unique over all dicts of the process, so an equal version is the same dict with
// the same items); an attribute found through a type whose version is unchanged; an immutable field of a stable object.
// Everything else is reached by an edge that can be changed and changed back (a list item, a cell, __defaults__, an
// argument), so the object there is fetched, compared and checked on each call. Entries are ordered parents first: an
// address is read only once its owner is known alive.
//
// Where CPython reports changes (3.12 on), unchanged dicts and types are one flag for all of them (watches.h).
//
// Dicts that change often (a globals dict, an instance that counts its calls) are *volatile*: when the version differs,
// their guarded keys are looked up again, and the list stays. A dict becomes volatile at its first mismatch.
#ifndef FRAMEJIT_FRAME_EVAL_GUARDS_FLAT_LIST_H_
#define FRAMEJIT_FRAME_EVAL_GUARDS_FLAT_LIST_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "frame_eval/guards/guard_tree.h"
#include "frame_eval/guards/watches.h"

namespace framejit {

class FlatList {
 public:
  enum class Outcome : uint8_t {
    kPass,
    kFail,      // a check failed that the full walk would fail as well
    kMismatch,  // something moved; only the full walk can tell
  };

  // `objects` is the result of a walk that has just passed for `state`, and stays the caller's.
  void Rebuild(const GuardTree& tree, const CallState& state, const GuardObjects& objects);
  // Brings `objects` up to date for `state`.
  Outcome Check(const GuardTree& tree, const CallState& state, GuardObjects& objects, std::vector<PyRef>& owned);

  // Nodes whose object may differ from one call to the next.
  const std::vector<int32_t>& dynamic_nodes() const { return dynamic_nodes_; }
  size_t size() const { return fresh_.size() + entries_.size() + tensors_.size() + pairs_.size(); }

 private:
  // One check: an address and the word expected there. The low bits of the address say which word: 0 for 64 bits, 1 for
  // 32 bits, 2 for no word but an operation on node `expected`.
  struct Entry {
    uintptr_t address;
    uint64_t expected;
  };
  static constexpr uintptr_t kWord32 = 1;
  static constexpr uintptr_t kOperation = 2;
  enum class Operation : uint8_t { kRefetch, kRecheck, kVolatileDict };
  struct VolatileDict {
    int32_t node;
    uint64_t version;
  };
  struct StableTensor {
    int32_t node;
    int32_t check;
    const void* storage;  // compared where inputs must not overlap
  };

  bool RunOperation(const GuardTree& tree, uint64_t operand, const CallState& state, GuardObjects& objects,
                    std::vector<PyRef>& owned);
  bool CheckVolatileDict(const GuardTree& tree, VolatileDict& dict, GuardObjects& objects);
  bool OverlapUnchanged(const GuardTree& tree, const GuardObjects& objects) const;
  void OnMismatch(size_t entry);

  void AddArguments(const GuardTree& tree, const CallState& state, const GuardObjects& objects);
  void AddNode(const GuardTree& tree, const GuardObjects& objects, int32_t node);
  void AddStableChecks(const GuardTree& tree, const GuardObjects& objects, int32_t node);
  void AddDict(const GuardTree& tree, const GuardObjects& objects, int32_t node);
  void AddAmbient(const GuardTree& tree);
  void AddTensors(const GuardTree& tree, const GuardObjects& objects);
  void AddType(PyTypeObject* type, uint32_t version, int32_t owner);
  void AddWord(const void* address, uint64_t expected, int32_t owner);
  void AddWord32(const void* address, uint32_t expected, int32_t owner);
  void AddOperation(Operation operation, int32_t operand, int32_t owner);
  bool NeedsDictVersion(const GuardTree& tree, int32_t node) const;

  WatchSet watches_;             // dicts and types that are not among the entries
  std::vector<int32_t> fresh_;   // argument subtrees that are walked on each call
  std::vector<int32_t> pinned_;  // arguments that must be the same object
  std::vector<Entry> entries_;
  std::vector<int32_t> owners_;  // per entry: the node to blame, or -1
  std::vector<VolatileDict> volatile_dicts_;
  std::vector<StableTensor> tensors_;
  std::vector<int32_t> pairs_;  // indexes of GuardTree::pairs that involve dynamic nodes
  std::vector<int32_t> dynamic_nodes_;
  std::vector<int32_t> fresh_tensors_;  // dynamic nodes with a tensor check
  absl::flat_hash_set<const void*> stable_storages_;
  PyObject* function_ = nullptr;  // compared, never dereferenced

  // Kept between rebuilds.
  std::vector<bool> is_volatile_;
  std::vector<bool> walk_argument_;  // arguments whose identity changed before: walked instead of compared

  // While rebuilding.
  std::vector<bool> stable_, dynamic_, is_fresh_;
  absl::flat_hash_set<uintptr_t> seen_;
};

}  // namespace framejit

#endif  // FRAMEJIT_FRAME_EVAL_GUARDS_FLAT_LIST_H_
