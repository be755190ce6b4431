#include "frame_eval/guards/watches.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "frame_eval/cpython/shim.h"

namespace framejit {

// Who watches what. An object that changed has no watchers any more, but CPython goes on reporting it. While it reports
// a dict it cannot be told to stop, so that is done when the next one is watched. A type goes on being reported: it
// rarely changes, and its end is reported as a change only where it has a version.
struct WatchRegistry {
  using Sets = absl::InlinedVector<WatchSet*, 1>;
  struct Kind {
    int id;
    int (*watch)(int id, PyObject* object);
    int (*unwatch)(int id, PyObject* object);  // null: not done
    absl::flat_hash_map<PyObject*, Sets> sets;
    std::vector<PyObject*> reported;  // without watchers, and still reported

    bool Add(PyObject* object, WatchSet* set) {
      if (id < 0) return false;
      StopReports();
      auto [found, is_new] = sets.try_emplace(object);
      if (is_new && watch(id, object) != 0) {
        PyErr_Clear();
        sets.erase(found);
        return false;
      }
      found->second.push_back(set);
      return true;
    }

    void Remove(PyObject* object, WatchSet* set) {
      auto found = sets.find(object);
      if (found == sets.end()) return;
      auto place = std::find(found->second.begin(), found->second.end(), set);
      if (place != found->second.end()) found->second.erase(place);
      if (!found->second.empty()) return;
      sets.erase(found);
      Stop(object);
    }

    void Stop(PyObject* object) {
      if (unwatch != nullptr && unwatch(id, object) != 0) PyErr_Clear();
    }

    void StopReports() {
      for (PyObject* object : std::exchange(reported, {})) {
        if (!sets.contains(object)) Stop(object);
      }
    }

    void OnChange(PyObject* object, bool gone) {
      if (gone) std::erase(reported, object);
      auto found = sets.find(object);
      if (found == sets.end()) return;
      Sets told = std::move(found->second);
      sets.erase(found);
      if (!gone && unwatch != nullptr) reported.push_back(object);
      for (WatchSet* set : told) Trip(*set, object);
    }
  };

  // Never destroyed: objects go until the process ends.
  static Kind& Dicts() {
    static auto* kind = new Kind{ShimNewDictWatcher(&OnDict), &ShimWatchDict, &ShimUnwatchDict, {}, {}};
    return *kind;
  }
  static Kind& Types() {
    static auto* kind = new Kind{ShimNewTypeWatcher(&OnType), &ShimWatchType, nullptr, {}, {}};
    return *kind;
  }
  static void OnDict(PyObject* dict, int gone) { Dicts().OnChange(dict, gone != 0); }
  static void OnType(PyObject* type) { Types().OnChange(type, /*gone=*/false); }

  static void Trip(WatchSet& set, PyObject* object) {
    if (std::exchange(set.tripped_, true)) return;
    auto changed = std::find_if(set.watched_.begin(), set.watched_.end(),
                                [&](const WatchSet::Watched& row) { return row.object == object; });
    if (changed != set.watched_.end()) set.tripped_by_ = changed->owner;
  }
};

bool WatchSet::WatchDict(PyObject* dict, int32_t owner) {
  if (!WatchRegistry::Dicts().Add(dict, this)) return false;
  watched_.push_back({dict, owner, /*is_type=*/false});
  return true;
}

bool WatchSet::WatchType(PyTypeObject* type, int32_t owner) {
  auto* object = reinterpret_cast<PyObject*>(type);
  if (!WatchRegistry::Types().Add(object, this)) return false;
  watched_.push_back({object, owner, /*is_type=*/true});
  return true;
}

void WatchSet::Clear() {
  for (const Watched& row : std::exchange(watched_, {})) {
    (row.is_type ? WatchRegistry::Types() : WatchRegistry::Dicts()).Remove(row.object, this);
  }
  tripped_ = false;
  tripped_by_ = -1;
}

}  // namespace framejit
