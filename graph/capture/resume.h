// Entering frames in the middle. A ResumePoint says at which instruction of which code, and which locals and stack
// values are given; a ResumeTable makes, once for each point, the Python function that takes such a state and goes on
// from there (bytecode/rewrite.h). After the instruction that a recording could not capture, that function calls a
// *re-entry* hook, through which compiled code takes over again.
#ifndef FRAMEJIT_GRAPH_CAPTURE_RESUME_H_
#define FRAMEJIT_GRAPH_CAPTURE_RESUME_H_

#include <Python.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/node_hash_map.h"
#include "absl/status/statusor.h"
#include "bytecode/decode.h"
#include "bytecode/liveness.h"
#include "bytecode/reentry.h"
#include "frame_eval/cpython/py_ref.h"
#include "frame_eval/guards/source.h"

namespace framejit {

enum class StackItem : uint8_t {
  kNull,  // a NULL, which a state does not hold
  kValue,
  kIterator,  // a builtin iterator that nobody else holds: a recording may advance a copy of it
  kLasti,     // the offset of an instruction that raised: in a state, that of the user's code
};

// Instructions are indices into the decoded code.
struct ResumePoint {
  PyCodeObject* code = nullptr;  // as the user wrote it; held by the table
  PyObject* globals = nullptr;   // likewise
  int target = 0;                // where evaluation goes on
  // The frame waits for an inner one: this instruction made the call whose result is pushed before `target`; -1: no.
  int call = -1;
  std::vector<int> slots;        // of localsplus, in the order of the state; the others are unbound
  std::vector<StackItem> stack;  // bottom first
  // The frame is in an exception handler. What it saved of the frames outside it is not in the state (None is).
  bool handles = false;

  bool waits() const { return call >= 0; }
  int stack_values() const;
  // Items of the state: the slots, the values on the stack, in a handler the exception being handled, and for a frame
  // that waits the inner frame's function and its state.
  int state_size() const { return own_size() + (waits() ? 2 : 0); }
  int own_size() const { return static_cast<int>(slots.size()) + stack_values() + (handles ? 1 : 0); }
  bool operator==(const ResumePoint&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const ResumePoint& p) {
    return H::combine(std::move(h), p.code, p.globals, p.target, p.call, p.slots, p.stack);
  }
};

// What is known of one code object.
struct CodeAnalysis {
  PyCodeObject* code;
  DecodedCode decoded;
  std::optional<Liveness> liveness;
  std::optional<Reentries> reentries;  // points to `decoded`

  // `source` outlives it.
  static absl::StatusOr<std::unique_ptr<CodeAnalysis>> Of(PyCodeObject* source);

  // Slots whose values the instruction at `index` and what follows may read. What super() reads unseen is among them.
  std::vector<int> LiveSlots(int index) const;
  // Where native evaluation of the instruction can begin: a call with keywords begins at its KW_NAMES.
  int StartOfCall(int index) const;
  // The call itself, of an instruction that begins one.
  int EndOfCall(int index) const;
  // Whether the code may look at its own frame (locals(), eval, sys._getframe, a debugger): then all its variables are
  // carried, and it is not left again.
  bool LooksAtFrames() const;
  // Whether the instruction is a plain call, whose result is pushed when the called frame returns.
  bool IsCall(int index) const;
  // Depth of the stack when its operands are gone and its result is not there yet.
  int DepthWithoutOperands(int index) const;
  // Where re-entry points are worth having: the first legal ones that control can come to after the instruction or, if
  // that raises, in the handlers of this code.
  std::vector<int> ReentriesAfter(int index) const;
  // The same, but for when the instruction raises only.
  std::vector<int> ReentriesInHandlerOf(int index) const;

 private:
  std::vector<int> HandlerOf(int index) const;
  std::vector<int> FirstReentries(std::vector<int> pending) const;
};

// Where a running frame may go over to compiled code: what the hook of a re-entry is told.
struct Reentry {
  PyCodeObject* code = nullptr;  // as the user wrote it
  PyObject* globals = nullptr;
  int target = 0;
  int depth = 0;            // values on the stack
  std::vector<int> live;    // slots that are carried where they are bound
  int first_slot = 0;       // where slot 0 of `code` is in the running frame's localsplus
  std::vector<int> saved;   // stack positions of exceptions that the handlers around saved, outermost first
  std::vector<int> lastis;  // stack positions of offsets of instructions that raised
};

// The code of a function that a ResumeTable made.
struct ResumedCode {
  const ResumePoint* point;
  int return_offset;         // code units: a RETURN_VALUE
  std::vector<int> offsets;  // by offset of an instruction in the user's code: where it is in this one; -1 in between

  // The other way; -1: the instruction is none of the user's.
  int OriginalOffset(int offset) const;
};

// Which numbers and texts differ from recording to recording of an entry, so that a recording for each value would
// never end: items of a segment's states, named by their positions in nested tuples, and what is read from outside.
class VaryingItems {
 public:
  using Path = std::vector<int>;
  static constexpr int kArgs = -1;  // behind the position of an exception: its arguments, all together

  // Of the state that is recorded next.
  void Note(PyObject* state);
  bool Contains(const Path& path) const;

  // From the next recording on, what is read is compared with what the recording before read.
  void WatchSources(std::vector<std::string> argument_names);
  // A number or text was read. True: it must not be guarded by value.
  bool NoteSource(const SourceTable& sources, SourceId source, PyObject* value);
  // The sources whose values changed again and again are not guarded by value any more; a text for each.
  std::vector<std::string> GiveUpSources();
  // Those of them that recordings came to, which held numbers or texts then.
  absl::flat_hash_set<std::string> TakeAvoided() { return std::exchange(avoided_, {}); }

 private:
  struct Item {
    PyRef last;
    int changes = 0;
  };
  void NoteItems(PyObject* tuple, Path& path);
  void NoteItem(PyObject* value, const Path& path);
  static void NoteValue(PyObject* value, Item& item);

  absl::flat_hash_map<Path, Item> items_;
  bool watches_ = false;
  std::vector<std::string> argument_names_;
  absl::flat_hash_map<std::string, Item> read_;
  absl::flat_hash_set<std::string> given_up_, avoided_;
};

// super() without arguments reads the first local and the cell of __class__, which no instruction says: these slots, in
// code that has such a cell.
std::vector<int> SlotsOfSuper(PyCodeObject* code);

// What this frame or generator handles now (sys.exception), borrowed; null: nothing.
PyObject* HandledException();

class ResumeTable {
 public:
  // Makes the callable of a re-entry.
  using HookFactory = std::function<PyRef(Reentry)>;

  // `marker`: what a hook returns when its frame is to be left. `unpacked`: called when a frame has taken over a state.
  ResumeTable(HookFactory hooks, PyRef marker, PyRef unpacked)
      : hooks_(std::move(hooks)), marker_(std::move(marker)), unpacked_(std::move(unpacked)) {}

  // Borrowed; made on first use.
  absl::StatusOr<PyObject*> FunctionFor(const ResumePoint& point);
  // Of a function's code made here, else null.
  const ResumedCode* Find(PyCodeObject* code) const;
  // Null where the code cannot be analysed. The table keeps `code` alive.
  const CodeAnalysis* Analyze(PyCodeObject* code);

  int Traverse(visitproc visit, void* arg) const;

 private:
  absl::StatusOr<PyRef> MakeFunction(const ResumePoint& point, std::vector<int>* offsets);

  HookFactory hooks_;
  PyRef marker_;
  PyRef unpacked_;
  absl::flat_hash_map<PyCodeObject*, std::unique_ptr<CodeAnalysis>> analyses_;
  absl::node_hash_map<ResumePoint, PyRef> functions_;
  absl::flat_hash_map<PyCodeObject*, ResumedCode> codes_;  // made here
  std::vector<PyRef> kept_alive_;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_RESUME_H_
