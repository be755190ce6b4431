// What a recording knows: provenance of outside objects, shadows, the overlay of writes, torch-level calls. Private to
// graph/capture; recorder_state.h is the interface. One file per concern implements it:
// lift.cc, shadow.cc, protocol_*.cc, names.cc, call*.cc, *_models.cc, torch_calls.cc, effects.cc, recipes.cc.
#ifndef FRAMEJIT_GRAPH_CAPTURE_RECORDER_IMPL_H_
#define FRAMEJIT_GRAPH_CAPTURE_RECORDER_IMPL_H_

#include <ATen/PythonTorchFunctionTLS.h>
#include <Python.h>

#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/node_hash_map.h"
#include "bytecode/location_table.h"
#include "frame_eval/cpython/shim.h"
#include "frame_eval/guards/native_value.h"
#include "frame_eval/guards/program_torch_state.h"
#include "graph/capture/callables.h"
#include "graph/capture/recorder_state.h"
#include "graph/capture/well_known.h"
#include "graph/symbolic/size_names.h"

namespace framejit {

struct ProgramGradients;

// An outside object that the recording has met. Keyed by the object; the first source wins.
struct Provenance {
  PyRef real;
  PyRef lifted;  // the object itself, its fake or its shadow
  SourceId source = kNoSource;
  bool pinned = false;  // a guard on something else fixes the identity
};

enum class ShadowKind : uint8_t { kDict, kInstanceDict, kGlobals, kList, kSet, kDeque };

// The local copy that stands for an outside container. Elements that were not read yet are Names().unlifted in a dict
// or list; `baseline` holds what an element was when it was lifted, so that a later difference is a write.
struct Shadow {
  ShadowKind kind = ShadowKind::kDict;
  PyRef real;
  PyRef copy;
  PyRef baseline;  // dict: key -> lifted value; list, deque: list; set: set
  PyRef owner;     // kInstanceDict: the instance
  PyRef witness;   // deque: an iterator, which fails once the copy was changed, be it to what it was
  SourceId source = kNoSource;
  std::vector<PyRef> written = {};  // dict: the keys that were set, in the order of the first write
  bool full = false;                // every element is lifted and the keys or the length are guarded
  bool touched = false;             // written: listed in RecorderImpl::writes
  bool cleared = false;             // an OrderedDict on which clear() was called
};

// Something that was written, in order of the first write.
struct Write {
  Shadow* shadow = nullptr;  // or a cell, or a native attribute of `object`, or a call with constant arguments
  PyRef cell;
  PyRef object;
  PyRef name;
  PyRef callable = {};
  PyRef arguments = {};
};

// An outside NumPy array and the copy that stands for it. Its content is guarded; writing to it is not replayed.
struct ArrayCopy {
  PyRef baseline;  // what the copy was worth (NativeValue)
  PyRef copy;
};

// Of a number that comes of data: the limits that are known, both of them possible.
struct NumberRange {
  std::optional<int64_t> low, high;
};

struct CellValue {
  PyRef value;  // null: emptied
};

// A C callable in one form: a function, or a method found on a type together with its receiver.
struct NativeCall {
  PyObject* callable;     // what is called, with `args` as below
  PyObject* const* args;  // for a method, args[0] is the receiver
  Py_ssize_t nargs;       // positional ones
  PyObject* kwnames;      // or null; their values follow the positional arguments
  Py_ssize_t total() const { return nargs + (kwnames != nullptr ? PyTuple_GET_SIZE(kwnames) : 0); }
};

struct RecorderState::Impl {
  explicit Impl(const RecordRequest& request);
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  const RecordRequest request;
  std::unique_ptr<Recording> recording;
  FakeSession session;

  // --- breaks and position (recorder_state.cc) -----------------------------------------------------------------------
  void Break(BreakCode code, std::string detail);
  PyObject* BreakNull(BreakCode code, std::string detail) { return Break(code, std::move(detail)), nullptr; }
  int BreakInt(BreakCode code, std::string detail) { return Break(code, std::move(detail)), -1; }
  bool broken() const { return recording->graph_break.has_value() || stopped; }
  std::vector<SourceLocation> Stack() const;
  int32_t CurrentLocation();
  bool InOptimizer() const;
  std::vector<LiveFrame*> frames;

  // --- ending in the middle, beginning in the middle (stop.cc) -------------------------------------------------------
  // A frame that the recording left in the middle, outermost first.
  struct LeftFrame {
    ResumePoint point;
    std::vector<PyRef> items;
  };
  bool BeginInstruction(int offset, int64_t number);
  void StopHere();
  bool LeaveFrame(size_t depth, PyObject** handled);
  void CarryReferred();
  bool LeaveStack(LeftFrame& state, size_t depth, const CodeAnalysis& analysis, int index);
  std::vector<StopPoint> PossibleStops();
  std::vector<StopPoint> WithEarlierStops(std::vector<StopPoint> stops);
  std::vector<StopPoint> DirectStops() const;
  std::vector<StopPoint> StopsOfRaise(PyObject* exception);
  const std::vector<StopPoint>* RaiseOfHandled() const;
  int EnterStack(const ResumePoint& point, PyObject* state, LiveFrame& frame);
  bool asks_what_lives = false;  // StopPoint::carries_dead of the stops at the break
  int EnterHandler(PyObject* exception, SourceId source, PyObject*** stack_top);
  bool IsOwnedIterator(size_t depth, PyObject* value, const std::vector<int>& live) const;
  void NoteRaise();
  void NoteCaught(PyObject* exception);
  RecipeId StateRecipe(size_t depth, PyRef* function);
  int EnterResumed(const ResumePoint& point, PyObject* state, LiveFrame& frame);
  PyObject* CallInner(const ResumePoint& point, PyObject* state);
  int Read(PyObject** place);
  VaryingItems::Path PathInState(SourceId source) const;
  // Before something is read of an exception: 0, or -1 with a break where it says something else on each call.
  int CheckContent(PyObject* exception);
  int UnpackUnread(PyObject* unread, int size, PyObject*** stack_top);
  SourceId StateSource(PyObject* state);
  bool stopped = false;
  bool dropping = false;                          // the recording is over; what it made dies
  absl::flat_hash_set<SourceId> owned_iterators;  // that a state brought and that are still unread
  std::vector<LeftFrame> left;
  PyCodeObject* entry_code = nullptr;
  std::vector<std::pair<int64_t, int>> root_instructions;  // of the entry frame, the last ones: number, offset
  absl::flat_hash_map<PyObject*, SourceId> state_sources;  // of states that were not unpacked yet
  bool tail_call = false;    // the result of the call being made is the calling instruction's
  bool direct_call = false;  // so is the result of the frame that starts next
  // Where the last exception was raised, until it is caught; and those that were caught. Outward; compared, never used.
  std::vector<StopPoint> last_raise;
  bool raised_anew = false;
  absl::flat_hash_map<PyObject*, std::vector<StopPoint>> caught;
  PyObject* handled_exception = nullptr;  // when the recording began; compared, never used
  struct CodeFacts {
    bool is_library = false;
    std::vector<SourceSpan> spans;  // by code unit, once one has been asked for; empty where the table has none
  };
  const CodeFacts& FactsOf(PyCodeObject* code, bool spans);
  absl::flat_hash_map<PyCodeObject*, CodeFacts> code_facts;
  absl::flat_hash_map<std::pair<PyCodeObject*, int>, int32_t> locations;

  // --- guards and provenance (lift.cc) -------------------------------------------------------------------------------
  void AddGuard(GuardKind kind, SourceId source, PyObject* payload = nullptr, int64_t number = 0,
                SourceId other = kNoSource);
  void GuardType(PyTypeObject* type);  // TypeVersion
  bool GuardMethodOfType(PyTypeObject* type, PyObject* name);
  int64_t guards_added = 0;
  SourceId Intern(SourceKind kind, SourceId parent, PyObject* key = nullptr, int32_t index = -1);
  SourceId Pinned(PyObject* object);
  Provenance* FindKnown(PyObject* object);  // by the outside object or by what was lifted for it
  bool IsOutside(PyObject* object);
  SourceId SourceOf(PyObject* object);  // kNoSource: local
  Provenance& Remember(PyObject* real, PyObject* lifted, SourceId source, bool pinned);
  PyObject* Lift(PyObject* value, SourceId source, bool pinned = false);
  PyObject* LiftTensor(PyObject* value, SourceId source);
  PyObject* LiftTuple(PyObject* value, SourceId source, bool pinned);
  PyObject* LiftSlice(PyObject* value, SourceId source, bool pinned);
  PyObject* LiftMethod(PyObject* value, SourceId source);
  PyObject* LiftDevice(PyObject* value, SourceId source, bool pinned);
  PyObject* LiftContainer(PyObject* value, SourceId source, bool pinned);
  PyObject* LiftNativeValue(PyObject* value, SourceId source, bool pinned);
  PyObject* LiftIterator(PyObject* iterator, SourceId source);
  int LiftFrameArguments(PyFunctionObject* function, PyObject** slots);
  int LiftEntryArguments(PyFunctionObject* function, PyObject** slots);
  int LiftSlot(PyFunctionObject* function, int index, PyObject** slot);
  int LiftKeywords(PyObject* kwargs, SourceId source);
  void RegisterCells(PyFunctionObject* function);
  absl::node_hash_map<PyObject*, Provenance> known;
  absl::flat_hash_map<PyObject*, PyObject*> real_of;  // lifted -> real where they differ
  absl::flat_hash_set<PyObject*> local_functions;
  absl::flat_hash_set<PyObject*> local_types;
  PyObject* class_body = nullptr;  // code of the class statement being executed: its function is local
  std::vector<PyRef> kept_alive;   // objects whose addresses are keys
  absl::flat_hash_set<PyTypeObject*> guarded_types;
  absl::flat_hash_set<PyObject*> entered_functions;

  // --- shadows (shadow.cc) -------------------------------------------------------------------------------------------
  Shadow* FindShadow(PyObject* copy);
  Shadow* NewShadow(ShadowKind kind, PyObject* real, PyRef copy, SourceId source);
  Shadow* DictShadow(ShadowKind kind, PyObject* real, SourceId source);
  Shadow* InstanceDict(PyObject* object);  // of an outside object; null with a break or an exception
  Shadow* GlobalsShadow(PyObject* globals);
  PyObject* NewDictLike(PyObject* real);
  int PutDict(PyObject* dict, PyObject* key, PyObject* value);
  int CheckKey(PyObject* key);
  PyObject* ShadowDictGet(Shadow& shadow, PyObject* key);  // null without an exception: absent (guarded)
  int ShadowDictSet(Shadow& shadow, PyObject* key, PyObject* value);
  int ShadowDictContains(Shadow& shadow, PyObject* key);
  PyObject* ShadowListGet(Shadow& shadow, Py_ssize_t index);
  int LiftEntry(Shadow& shadow, PyObject* key);
  void GuardLength(Shadow& shadow);
  // `only_moves`: nothing looks at its items but what takes them one by one.
  int FullLift(Shadow& shadow, bool only_moves = false);
  int FullLiftDict(Shadow& shadow);
  int GuardKeys(Shadow& shadow);
  void Touch(Shadow& shadow);
  int Prepare(PyObject* object, int depth = 0);
  PyObject* Scan(PyObject* result, int depth = 0);
  absl::flat_hash_map<PyObject*, std::unique_ptr<Shadow>> shadows;  // by copy
  absl::flat_hash_map<PyObject*, Shadow*> instance_dicts;           // by instance
  absl::flat_hash_map<PyObject*, PyRef> proxies;                    // mappingproxy -> its type
  std::vector<Write> writes;
  absl::flat_hash_map<std::pair<PyObject*, PyObject*>, PyRef>
      native_attributes;  // (object, name) -> value; null: deleted

  // --- protocol functions (protocol_attr.cc, protocol_setattr.cc, protocol_item.cc, protocol_ops.cc) -----------------
  PyObject* GetAttr(PyObject* object, PyObject* name);
  PyObject* InstanceGetAttr(PyObject* object, PyObject* name);
  PyObject* GenericGetAttr(PyObject* object, PyObject* name, bool* found);
  PyObject* AliasGetAttr(PyObject* object, PyObject* name);
  PyObject* TypeGetAttr(PyTypeObject* type, PyObject* name);
  PyObject* ModuleGetAttr(PyObject* module, PyObject* name);
  PyObject* SuperGetAttr(PyObject* object, PyObject* name);
  PyObject* MethodGetAttr(PyObject* method, PyObject* name);
  PyObject* TensorGetAttr(PyObject* tensor, PyObject* name);
  PyObject* TensorGradient(PyObject* tensor);
  int SetTensorGradient(PyObject* tensor, PyObject* gradient);
  void GradientEffects();
  void BreakAtBackward();
  PyObject* BindData(PyObject* descriptor, PyObject* object, PyObject* name);
  PyObject* BindNative(PyObject* descriptor, PyObject* object, PyObject* name);
  // object null: the attribute was found through the type `type` itself
  PyObject* Bind(PyObject* descriptor, PyObject* object, PyTypeObject* type, PyTypeObject* found_on, PyObject* name);
  int GetMethod(PyObject* object, PyObject* name, PyObject** method);
  int SetAttr(PyObject* object, PyObject* name, PyObject* value);
  int GenericSetAttr(PyObject* object, PyObject* name, PyObject* value);
  int SetData(PyObject* descriptor, PyObject* object, PyObject* name, PyObject* value);
  int TensorSetAttr(PyObject* tensor, PyObject* name, PyObject* value);
  PyObject* GetItem(PyObject* container, PyObject* key);
  PyObject* DictGetItem(PyObject* dict, PyObject* key);  // as dict.__getitem__, with __missing__
  PyObject* ListGetItem(Shadow& shadow, PyObject* key);
  PyObject* TensorIndex(PyObject* key);
  int SetItem(PyObject* container, PyObject* key, PyObject* value);
  int DelItem(PyObject* container, PyObject* key);
  int IsTrue(PyObject* object);
  int Contains(PyObject* container, PyObject* value);
  Py_ssize_t Length(PyObject* object);
  PyObject* GetIter(PyObject* object);
  PyObject* IterNext(PyObject* iterator);
  PyObject* Binary(int op, PyObject* left, PyObject* right);
  PyObject* Unary(UnaryOperator op, PyObject* object);
  PyObject* RichCompare(PyObject* left, PyObject* right, int op);
  int Is(PyObject* left, PyObject* right);
  PyObject* Format(PyObject* value, int conversion, PyObject* spec);
  PyObject* LookupSpecial(PyObject* object, PyObject* name);
  PyObject* AsTuple(PyObject* sequence);
  // Whether C code may use protocol slot `name` of `object`: the slot is Python code, absent, or the object is safe.
  int PrepareSlot(PyObject* object, PyObject* name);

  // --- names (names.cc) ----------------------------------------------------------------------------------------------
  PyObject* GlobalsGet(PyObject* globals, PyObject* name);  // null without an exception: absent (guarded)
  PyObject* LoadGlobal(PyObject* globals, PyObject* builtins, PyObject* name);
  int StoreGlobal(PyObject* globals, PyObject* name, PyObject* value);
  PyObject* LoadCell(PyObject* cell, PyFunctionObject* function, int index);
  int StoreCell(PyObject* cell, PyFunctionObject* function, int index, PyObject* value);
  SourceId CellSource(PyObject* cell, PyFunctionObject* function, int index);
  PyObject* LiftModule(PyObject* module);
  PyObject* ImportName(PyObject* name, PyObject* globals, PyObject* fromlist, PyObject* level);
  absl::flat_hash_map<std::pair<PyObject*, PyObject*>, PyRef> globals_cache;
  absl::flat_hash_set<PyObject*> local_cells;
  absl::flat_hash_map<PyObject*, SourceId> cell_sources;
  absl::flat_hash_map<PyObject*, CellValue> cell_values;

  // --- calls (call.cc, call_models.cc) -------------------------------------------------------------------------------
  PyObject* Call(PyObject* callable, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
  PyObject* Call(PyObject* callable, std::initializer_list<PyObject*> args);
  PyObject* CallFunction(PyObject* function, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
  PyObject* CallMethod(PyObject* method, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
  PyObject* CallType(PyTypeObject* type, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
  PyObject* Construct(const NativeCall& call, const NativeCall& native);
  PyObject* CallPartial(PyObject* partial, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
  PyObject* CallCached(PyObject* wrapper, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
  PyObject* CallInstance(PyObject* object, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames);
  PyObject* CallGetter(PyObject* getter, PyObject* object);
  PyObject* CallWithSelf(PyObject* callable, PyObject* self, PyObject* const* args, Py_ssize_t nargs,
                         PyObject* kwnames);
  PyObject* CallNative(const NativeCall& call);
  PyObject* CallMethodOf(PyTypeObject* type, const char* name, const NativeCall& call);
  PyObject* CallShadowMethod(Shadow& shadow, const char* name, const NativeCall& call);
  PyObject* CallNew(const NativeCall& call);
  PyObject* CallModel(Treatment treatment, const NativeCall& call);
  PyObject* CallPure(const NativeCall& call);
  PyObject* CallReal(const NativeCall& call);  // natively, after everything was judged and prepared
  PyObject* ModelAttribute(Treatment treatment, const NativeCall& call);
  PyObject* ModelGetter(const NativeCall& call);
  PyObject* ModelReduce(const NativeCall& call, bool is_sum);
  PyObject* ModelMap(const NativeCall& call);
  PyObject* ModelHigherOrder(const NativeCall& call);
  bool MayBeCalledByC(PyObject* callable);
  PyObject* ModelText(const NativeCall& call);
  PyObject* ModelContextVar(const NativeCall& call);
  PyObject* ModelVars(const NativeCall& call);
  PyObject* ModelConstantTensor(const NativeCall& call);
  PyObject* ModelTorchLeaf(const NativeCall& call);
  PyObject* ModelTensorValue(const NativeCall& call);
  PyObject* ModelNewTensor(const NativeCall& call);
  PyObject* ModelFunctionApply(const NativeCall& call);
  PyObject* ModelCheckpoint(const NativeCall& call);
  PyObject* ModelGradient(const NativeCall& call);
  PyObject* ModelBackward(const NativeCall& call);
  PyObject* ModelRetainGrad(const NativeCall& call);
  PyObject* ModelRegisterHook(const NativeCall& call);
  PyObject* ModelRequireGrad(const NativeCall& call);
  int SetGradMode(bool enabled);
  PyObject* ModelGetItemDefault(const NativeCall& call);
  PyObject* ModelOperator(const NativeCall& call);
  PyObject* ModelNext(const NativeCall& call);
  int PrepareArguments(const NativeCall& call);

  // --- classes that the recording makes (class_models.cc) ------------------------------------------------------------
  bool IsLocalType(PyTypeObject* type) const { return local_types.contains(reinterpret_cast<PyObject*>(type)); }
  // What the program sees of `value`, found by `name` along the MRO of `type`.
  PyObject* LiftTypeAttribute(PyTypeObject* type, PyObject* name, PyObject* value);
  SourceId TypeAttributeSource(PyTypeObject* type, PyObject* name);  // kNoSource: of a class that is local
  PyObject* ModelBuildClass(const NativeCall& call);
  PyObject* ModelNewType(const NativeCall& call);
  PyObject* CallMetaclass(const NativeCall& call);
  int InitFunction(PyObject* type, const NativeCall& call);
  void NoteLocalType(PyObject* type);
  PyObject* RunClassBody(PyObject* function, PyObject* name_space);
  PyRef ResolveBases(PyObject* bases);
  // Instances with a __del__ that the recording made, and its generators: weak references.
  void NoteFinalizable(PyObject* object);
  void CheckFinalizable();
  std::vector<PyRef> finalizable;

  // --- code made from text (execute_models.cc) -----------------------------------------------------------------------
  PyObject* ModelExecute(const NativeCall& call);
  PyObject* ModelGetFrame(const NativeCall& call);
  PyObject* RunCode(PyObject* code, PyObject* globals, PyObject* locals);
  PyObject* RealNamespace(PyObject* name_space);
  absl::flat_hash_set<PyObject*> local_namespaces;  // dicts made inside that are the globals of code

  // --- tensors and modules made inside (tensor_models.cc) ------------------------------------------------------------
  PyObject* ModelMakeSubclass(const NativeCall& call);
  PyObject* ModelDeepCopy(const NativeCall& call);
  PyObject* ModelCopy(const NativeCall& call);
  absl::flat_hash_map<PyObject*, absl::flat_hash_set<int32_t>> copied_storages;  // by the memo of deepcopy

  // --- library functions (library_models.cc) -------------------------------------------------------------------------
  PyObject* ModelMethodCaller(const NativeCall& call);
  PyObject* ModelSingleDispatch(const NativeCall& call);
  PyObject* ModelTypingCache(const NativeCall& call);
  PyRef Forwarder(PyObject* callable);
  PyObject* ModelOnLocal(const NativeCall& call);
  PyObject* ModelWritesFirst(const NativeCall& call);
  PyObject* ModelReduceEx(const NativeCall& call);
  PyObject* ModelWarn(const NativeCall& call);
  PyObject* ModelThreadIdent(const NativeCall& call);
  PyObject* ModelRandomSeed(const NativeCall& call);
  PyObject* ModelCallEffect(const NativeCall& call);
  PyObject* ModelWeakReference(const NativeCall& call);
  PyObject* BreakAtWeakReference(const char* what);
  void GuardAbstractBases();
  PyObject* ModelAddress(const NativeCall& call);
  // What id() returned, and of which outside object, or null: of one that is another on each call.
  absl::flat_hash_map<int64_t, PyObject*> addresses;
  // A key or a result is fixed to the value. False where that names an object that is another on each call.
  bool GuardAddresses(PyObject* value);
  std::vector<PyObject*> addressed;  // from outside
  int WarningAction(PyObject* category, PyObject* text, PyObject* module, long line, std::string* action);

  // --- NumPy (numpy_values.cc) ---------------------------------------------------------------------------------------
  bool IsVaryingScalar(PyObject* value, SourceId source) const;
  PyObject* LiftArray(PyObject* value, SourceId source, bool pinned);
  bool MayCallNumPy(const NativeCall& call);
  PyObject* CallNumPy(const NativeCall& call);
  void CheckArrays();
  std::vector<ArrayCopy> arrays;

  // --- __torch_function__ (torch_function.cc) ------------------------------------------------------------------------
  bool HasTorchFunction(const NativeCall& call) const;
  PyObject* CallTorchFunction(const NativeCall& call, const std::function<PyObject*()>& invoke);
  PyObject* ModelAsSubclass(const NativeCall& call);

  // --- torch-level calls (torch_calls.cc) ----------------------------------------------------------------------------
  using Invoke = std::function<PyObject*()>;
  PyObject* CallTorch(TorchCall::Kind kind, PyObject* target, const NativeCall& call, const Invoke& invoke);
  PyObject* CallTorch(TorchCall::Kind kind, PyObject* target, const NativeCall& call);
  PyObject* RecordTorch(TorchCall::Kind kind, PyObject* target, const NativeCall& call, const Invoke& invoke);
  PyObject* CallLeaf(PyObject* method, const NativeCall& call);
  PyObject* entered_leaf = nullptr;  // whose call is being made now; compared, never used
  PyObject* CallOperator(const char* name, std::initializer_list<PyObject*> args, const Invoke& invoke);
  bool Snapshot(PyObject* object, bool is_result, TorchArgument* argument, int depth = 0);
  TorchValueId TorchValue(const at::Tensor& tensor, bool make);
  bool HasFake(PyObject* object, int depth = 0) const;
  int CheckFailure();
  bool BreakWhereFakesFailed(PyObject* callable);
  // What the program gave autograd to run; made when that is first asked for.
  ProgramGradients& Gradients();
  std::shared_ptr<ProgramGradients> program_gradients;
  // `value` is read from outside. Whether that must not be: it may be another one when the backward runs.
  bool MayChangeBeforeBackward(PyObject* value);
  // What the function of a checkpoint reads, for Recording::checkpoint_reads.
  int open_checkpoints = 0;
  absl::flat_hash_set<SourceId> checkpoint_reads;
  std::vector<std::pair<PyRef, PyRef>> checkpoint_cells;  // and what was in them
  bool ReadsInCheckpoint() const { return open_checkpoints > 0; }
  void NoteRead(SourceId source) {
    if (ReadsInCheckpoint()) checkpoint_reads.insert(source);
  }
  absl::flat_hash_map<const void*, TorchValueId> torch_values;  // by TensorImpl
  // No other tensor is to have the address of one in torch_values. Those that autograd may come back to, and wrappers
  // of transforms, live as long as the recording; the others die when the program lets go of them, and are kept weakly.
  struct KeptTensor {
    c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> tensor;
    at::Tensor held;
  };
  std::vector<KeptTensor> kept_tensors;
  void SetTorchValue(const at::Tensor& tensor, TorchValueId id);

  // --- transforms of torch.func (transforms.cc) ----------------------------------------------------------------------
  PyObject* CallTransformed(const NativeCall& call);
  bool ReadClosure(PyFunctionObject* function);
  bool MayPullBack(const NativeCall& call);
  PyObject* CallInTransform(const NativeCall& call, const Invoke& invoke);
  bool AddOperatorCalls(size_t first_node);
  bool OperatorArgument(const Operand& operand, TorchArgument* argument);
  void OperatorResults(const Node& node, TorchArgument* result);
  absl::flat_hash_map<ValueId, TorchValueId> operator_values;  // made by AddOperatorCalls

  // --- numbers that vary (symbols.cc) --------------------------------------------------------------------------------
  // Whether the sizes of an input, or a number, are open. Before that no number is a symbol.
  bool IsSymbolic() const { return is_symbolic; }
  SymbolId SymbolOf(PyObject* object) const;
  bool HoldsSymbol(PyObject* object, int depth = 0) const;  // itself, or the items of a tuple, list or slice
  // Whether two objects consist of numbers and texts, symbols among them: what C code does with these is a computation.
  bool AreNumbers(PyObject* left, PyObject* right);
  void AddStep(SymbolStep step);
  // The symbol (new reference) that stands for a number from outside whose value is left open; null: it is none.
  PyObject* LiftVaryingNumber(PyObject* value, SourceId source);
  // Whether this is the recording of a segment, whose one argument is a state.
  bool IsSegment() const;
  // Of a symbol that such a number is, else kNoSource.
  SourceId SourceOfNumber(SymbolId symbol) const;
  absl::flat_hash_map<SourceId, PyRef> varying_numbers;
  bool numbers_may_vary = true;
  // What the program sees of the result (stolen) of a call that made no tensor, or of a computation.
  PyObject* Answer(TorchCall ask, PyObject* result, bool has_symbols);
  PyObject* AnswerPart(PyObject* result, bool has_symbols, const std::string& text, TorchArgument* pattern);
  PyObject* NewSymbol(PyObject* value, std::string text);
  void NameSizes(const TorchCall& ask);
  // A symbol that is computed of no other gets a name, once for what it is called, and is told with its range.
  // `is_unbacked`: nothing but a break left it behind.
  void TellSymbol(SymbolId symbol, std::string_view range, bool is_unbacked = false);
  int64_t unbacked_symbols = 0;  // that were told
  std::string ReadPlaceText();
  void TellSizes(const TorchArgument& result);
  absl::flat_hash_set<std::string> told_symbols;
  std::string size_range;  // of the size that is asked for next, where the program says one
  bool NumberArgument(PyObject* object, TorchArgument* argument, int depth = 0);
  // `invoke` computes function(*args), of numbers alone.
  PyObject* Compute(PyObject* function, absl::Span<PyObject* const> args, const Invoke& invoke);
  PyObject* ComputeOperator(const char* name, std::initializer_list<PyObject*> args, const Invoke& invoke);
  // From here on the recording holds for what the symbols in the object are worth here.
  void Specialise(PyObject* object);
  void SpecialiseArguments(const NativeCall& call);
  // --- sizes and numbers that come of data, and mark_unbacked (data_symbols.cc) --------------------------------------
  // Whether what is asked for now may be a number of the recording.
  bool MayReadData();
  bool SaysWhatItExpects(PyCodeObject* code);
  PyObject* ReadNumbers(const NativeCall& call);
  PyObject* ModelCheck(const NativeCall& call);
  // After a torch-level call: which of its results have sizes that come of data. `read`: it made them so.
  void NoteData(const TorchCall& call, bool read);
  enum class Judgement : uint8_t {
    kOpen,     // a step of the program
    kChecked,  // a step; the program raises where it does not hold
    kDecided,  // what is known of the numbers says so, whatever they are
    kBroke,    // nothing of the recording may depend on it
  };
  Judgement JudgeData(const TorchCall& ask);
  Judgement JudgeNumbers(const TorchCall& ask);
  void JudgeSizes(const TorchCall& ask, TorchValueId value);
  bool IsUnbacked(SymbolId symbol) const { return unbacked.contains(symbol); }
  bool IsUnbackedSize(const std::string& name) const;
  void AddUnbacked(SymbolId symbol, NumberRange range);
  void AddUnbacked(const TorchArgument& result, const NumberRange& range);
  NumberRange RangeOf(const TorchArgument& argument) const;
  void Narrow(const TorchArgument& argument, const NumberRange& range);
  bool IsBeingChecked() const;
  void BreakAtUnbacked(const std::string& text);
  absl::flat_hash_map<SymbolId, NumberRange> unbacked;
  absl::flat_hash_set<std::string> unbacked_texts;       // what these are called
  absl::flat_hash_set<TorchValueId> data_values;         // tensors some of whose sizes may come of such numbers
  absl::flat_hash_map<std::string, bool> checked_facts;  // comparisons that hold in each call
  absl::flat_hash_map<PyCodeObject*, bool> expects;      // SaysWhatItExpects
  // --- framejit.mark_dynamic and mark_static -----------------------------------------------------------------------
  // What the program says of the tensor's sizes, borrowed: a dict; null: nothing.
  static PyObject* MarksOf(PyObject* tensor);
  bool IsMarkedDynamic(PyObject* tensor) const;
  // Its limits and static dimensions are demanded. -1: with an exception.
  int DemandMarks(PyObject* lifted, SourceId source, PyObject* marks);
  // Symbols that a marked size decides alone, and how each is called.
  absl::flat_hash_map<SymbolId, std::string> marked;
  void NoteMarked(const TorchCall& ask);
  void FixMarked(SymbolId symbol);
  std::string marked_input;  // one with marks
  std::string fixing;        // what C code is given symbols, for messages
  // C code is about to take items of the iterator.
  void SpecialiseIterator(PyObject* iterator, int depth = 0);
  // The object is hashed, and compared with other keys.
  void UseAsKey(PyObject* object);
  // The tensor is compared with others by identity.
  void CompareIdentity(PyObject* tensor);
  void SpecialiseOperands(std::initializer_list<PyObject*> objects);
  void Fix(SymbolId symbol);
  std::string PlaceText();  // of the program's line, for the log
  // Before C code is called with symbols: 1 and the result; 0: it may be called, and what it computes with is fixed;
  // -1.
  int CallOnSymbols(const NativeCall& call, PyRef* result);
  int CallModelOnSymbols(Treatment treatment, const NativeCall& call, PyRef* result);
  int CallMethodOnSymbols(const NativeCall& call);
  int ConstructOnSymbols(const NativeCall& call, PyRef* result);
  int ComputeOrFix(const NativeCall& call, PyRef* result);
  void StayStatic(std::string why);
  void FinishSymbols();
  const std::vector<std::string>& ValueNames();  // of the torch-level values
  bool is_symbolic = false;
  bool own_call = false;  // of the frame that starts next
  absl::flat_hash_map<PyObject*, SymbolId> symbol_of;
  absl::flat_hash_set<SymbolId> fixed;
  std::vector<std::string> value_names, argument_names;
  size_t named_inputs = 0, named_calls = 0;
  SizeNames size_names;
  absl::flat_hash_map<TorchValueId, SourceId> static_inputs;

  // --- torch state (torch_state.cc) ----------------------------------------------------------------------------------
  PyObject* ModelTorchState(const NativeCall& call);
  PyObject* ModelInferenceMode(const NativeCall& call);
  void CheckDefaultDtype();
  void SaveTorchState();
  void RestoreTorchState();
  void AddTorchStateEffects();
  ProgramTorchState entry_state;
  at::impl::PythonTorchFunctionTLS entry_torch_function;
  int64_t entry_modes = 0;  // of __torch_function__
  bool changes_inference = false;
  bool changes_dtype = false;
  size_t dtype_checked = 0;  // how many of the graph's nodes CheckDefaultDtype has seen

  // --- random numbers (random_state.cc) ------------------------------------------------------------------------------
  PyObject* ModelManualSeed(const NativeCall& call);
  PyObject* ModelNewGenerator(const NativeCall& call);
  PyObject* ModelGeneratorMethod(const NativeCall& call);
  // Whether a graph may hold the generator: 0, or -1 with a break.
  int UseGenerator(PyObject* generator);
  PyObject* Seed(TorchCall call, PyObject* generator, PyObject* seed);
  absl::flat_hash_set<PyObject*> used_generators;
  bool changes_random_state = false;

  // --- the end (effects.cc, recipes.cc) ------------------------------------------------------------------------------
  std::unique_ptr<Recording> Finish(PyObject* result);
  std::unique_ptr<Recording> Result();
  void Drop();
  void GuardAgainstAliases();
  void BuildEffects();
  void GuardOffsets(int32_t storage);  // tensor_layout.cc, as are the next two
  void GuardAbsoluteViews();
  void LayoutEffects();
  void DictEffects(const Shadow& shadow);
  void InstanceEffects(const Shadow& shadow);
  void SequenceEffects(const Shadow& shadow);
  // Whether an iterator over the outside container would not stand where one over its changed copy stands.
  static bool MovesIterators(const Shadow& shadow);
  void WriteEffect(const Write& write);
  void AddEffect(EffectKind kind, RecipeId target, RecipeId key, RecipeId value);
  RecipeId SourceRecipe(SourceId source);
  RecipeId RecipeFor(PyObject* object);
  RecipeId NewRecipe(PyObject* object, RecipeKind kind);
  RecipeId TensorRecipe(PyObject* tensor);
  PyRef OutputForm(PyObject* tensor) const;
  RecipeId FunctionRecipe(PyObject* function);
  RecipeId InstanceRecipe(PyObject* object);
  RecipeId Unsupported(PyObject* object);
  void AddChildren(RecipeId id, PyObject* sequence);
  void AddAttributes(RecipeId id, PyObject* object);
  bool InputsShareMemory() const;
  bool WritesUnderAutograd() const;
  void NoteCheckpointReads();
  std::vector<LiftedInput> LiftedInputs() const;
  bool SharesMemoryWithAnotherInput(PyObject* tensor) const;
  void NoteVersions();
  void NoteOutputVersions();
  void CollectOutputs();
  absl::flat_hash_map<PyObject*, RecipeId> recipe_of;
  std::vector<PyRef> recipe_objects;
  std::vector<PyRef> graph_outputs;
};

// --- judgements that need no state -----------------------------------------------------------------------------------
// Immutable values without content that could be a tensor: None, bool, int, float, complex, str, bytes, ... (exact
// types).
bool IsPrimitive(PyObject* object);
// Objects guarded by identity: functions, types, modules, descriptors, dtypes, ...
bool IsCodeLike(PyObject* object);
bool IsTensor(PyObject* object);
// A fake of the recording, or a wrapper that torch.func made of one.
bool IsFakeTensor(PyObject* object);
// A wrapper of torch.func around a fake.
bool IsTransformed(const at::Tensor& tensor);
// Whether torch.func transforms what is called now.
bool InsideTransform();
// What torch.func.vmap, grad and the like return; and vjp, with what it returns.
bool IsFunctionTransform(PyObject* function);
// A class of tensors that is made by class statements and leaves the dispatcher alone: no __torch_dispatch__.
bool IsPlainTensorSubclass(PyTypeObject* type);
// A primitive, something code-like, or a tuple of such.
bool IsConstant(PyObject* object, int depth = 0);
// An instance of a subclass of str, bytes, int, float or complex, or a NumPy scalar: its value was guarded when it was
// lifted.
bool IsNativeValue(PyObject* object);
// A C object from outside that is compared and hashed by something that no guard covers (protocol_ops.cc).
bool HasUnguardedContent(PyObject* object);
// Made by a class statement.
bool IsPythonClass(PyTypeObject* type);
// framejit's own callables, which stand for a Python function.
bool IsEntryType(PyTypeObject* type);
// The first base that was not made by a class statement.
PyTypeObject* NativeBase(PyTypeObject* type);
bool IsUnlifted(PyObject* object);
// What functions of torch that compute on tensors are bound to.
bool IsTorchFunction(PyObject* self);
// What tensors say of their sizes: shape, size, numel, ...
bool TellsSizes(PyObject* target);
// "collections.OrderedDict.popitem", for the detail of a break.
std::string QualifiedName(PyObject* callable);
const at::Tensor& TensorOf(PyObject* object);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_CAPTURE_RECORDER_IMPL_H_
