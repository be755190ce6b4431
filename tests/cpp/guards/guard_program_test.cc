// Each guard kind: a change of just that thing fails, a change of something else does not; first through the flat list,
// then again after it was rebuilt.
#include "frame_eval/guards/guard_program.h"

#include <gtest/gtest.h>

#include <functional>

#include "tests/cpp/support/embedded_python.h"

namespace framejit {
namespace {

using testing::Namespace;

class GuardProgramTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(testing::StartPython()); }

  SourceId Argument(int index = 0) { return sources_.Intern(SourceKind::kArgument, kNoSource, nullptr, index); }
  SourceId Globals() {
    return sources_.Intern(SourceKind::kGlobals, sources_.Intern(SourceKind::kFunction, kNoSource));
  }
  SourceId Global(const char* name) { return Item(Globals(), name); }
  SourceId Item(SourceId dict, const char* key) {
    PyRef name = PyRef::Steal(PyUnicode_InternFromString(key));
    return sources_.Intern(SourceKind::kDictItem, dict, name.get());
  }
  SourceId InstanceDict(SourceId object) { return sources_.Intern(SourceKind::kInstanceDict, object); }
  SourceId Child(SourceKind kind, SourceId parent, int index = -1) {
    return sources_.Intern(kind, parent, nullptr, index);
  }

  void Add(GuardKind kind, SourceId source, PyRef payload = PyRef(), int64_t number = 0, SourceId other = kNoSource) {
    guards_.Add(Guard{kind, source, std::move(payload), number, other});
  }
  void AddType(SourceId source, const char* expression) { Add(GuardKind::kTypeIs, source, python_.Eval(expression)); }

  // The call f(*arguments) with the objects that the names say now.
  CallState State() {
    slots_.clear();
    for (const std::string& name : arguments_) slots_.push_back(name.empty() ? nullptr : python_[name.c_str()]);
    return CallState{python_["f"], slots_};
  }
  void Build() {
    auto program = GuardProgram::Build(sources_, guards_, fetch_, State(), {"x", "y"});
    ASSERT_TRUE(program.ok()) << program.status();
    program_ = *std::move(program);
  }
  bool Passes() {
    GuardResult result = program_->Check(State());
    EXPECT_EQ(PyErr_Occurred(), nullptr);
    return result == GuardResult::kPass;
  }
  void ExpectPass(const std::string& change) {
    python_.Run(change);
    EXPECT_TRUE(Passes()) << change << ": " << program_->ExplainFailure(State());
    EXPECT_TRUE(Passes()) << change << " (again)";
  }
  // `reason` must be part of the explanation. `undo` brings the state back.
  void ExpectFail(const std::string& change, const std::string& reason, const std::string& undo) {
    python_.Run(change);
    EXPECT_FALSE(Passes()) << change;
    EXPECT_NE(program_->ExplainFailure(State()).find(reason), std::string::npos)
        << change << ": " << program_->ExplainFailure(State());
    python_.Run(undo);
    EXPECT_TRUE(Passes()) << undo << ": " << program_->ExplainFailure(State());
  }

  Namespace python_;
  SourceTable sources_;
  GuardList guards_;
  std::vector<SourceId> fetch_;
  std::vector<std::string> arguments_;
  std::vector<PyObject*> slots_;
  std::unique_ptr<GuardProgram> program_;
};

TEST_F(GuardProgramTest, TensorProperties) {
  python_.Run("def f(x): pass\nx = t = torch.ones(2, 3)");
  arguments_ = {"x"};
  fetch_ = {Argument()};
  Add(GuardKind::kTensorMatches, Argument(), PyRef::Borrow(python_["x"]));
  Build();
  ExpectPass("x = torch.zeros(2, 3)");
  EXPECT_EQ(program_->Fetched()[0], python_["x"]);
  ExpectFail("x = t.double()", "dtype", "x = t");
  ExpectFail("x = torch.ones(2, 4)", "size", "x = t");
  ExpectFail("x = torch.ones(3, 2).t()", "stride", "x = t");
  ExpectFail("x = torch.ones(2, 3, requires_grad=True)", "requires_grad", "x = t");
  ExpectFail("x = torch.ones(2, 3, device='meta')", "device", "x = t");
  ExpectFail("x = 3", "type is int", "x = t");
  ExpectFail("x = torch.ones(2, 3, dtype=torch.complex64).conj()", "dtype", "x = t");
}

TEST_F(GuardProgramTest, GlobalsAreCheckedByKey) {
  python_.Run("SCALE = 2.0\ndef f(x): pass");
  Add(GuardKind::kConstantIs, Global("SCALE"), python_.Eval("2.0"));
  Add(GuardKind::kKeyAbsent, Globals(), python_.Eval("'len'"));
  Build();
  ExpectPass("other = 1");
  ExpectPass("other += 1");
  ExpectPass("SCALE = 1.0 + 1.0");
  ExpectFail("SCALE = 3.0", "G['SCALE'] is 3.0, expected 2.0", "SCALE = 2.0");
  ExpectFail("SCALE = None\nSCALE = 3.0", "expected 2.0", "SCALE = 2.0");
  ExpectFail("SCALE = 2", "expected 2.0", "SCALE = 2.0");
  ExpectFail("del SCALE", "expected 2.0", "SCALE = 2.0");
  ExpectFail("len = 3", "now has the key 'len'", "del len");
}

TEST_F(GuardProgramTest, InstanceOfAnArgument) {
  python_.Run("class C: pass\nclass D: pass\nx = c = C()\nc.n = 1\nc.items = {'a': 5}\ndef f(x): pass");
  arguments_ = {"x"};
  SourceId attributes = InstanceDict(Argument());
  AddType(Argument(), "C");
  Add(GuardKind::kConstantIs, Item(attributes, "n"), python_.Eval("1"));
  Add(GuardKind::kConstantIs, Item(Item(attributes, "items"), "a"), python_.Eval("5"));
  Build();
  ExpectPass("c.unrelated = 1");
  ExpectPass("c.unrelated += 1");
  ExpectPass("x = C()\nx.n = 1\nx.items = {'a': 5}");
  ExpectPass("x = c");
  ExpectFail("c.n = 2", "expected 1", "c.n = 1");
  ExpectFail("c.items['a'] = 6", "expected 5", "c.items['a'] = 5");
  ExpectPass("c.items['b'] = 6");
  ExpectFail("old = c.items\nc.items = {'a': 6}", "expected 5", "c.items = old");
  ExpectFail("saved = c.__dict__\nc.__dict__ = {'n': 2, 'items': saved['items']}", "expected 1", "c.__dict__ = saved");
  ExpectFail("c.__class__ = D", "type of L['x'] is D", "c.__class__ = C");
  ExpectFail("x = 3", "type of L['x'] is int", "x = c");
}

TEST_F(GuardProgramTest, ListsBelowAGlobal) {
  python_.Run("class C: pass\nROWS = [1, [2], C()]\nROWS[2].n = 1\ndef f(): pass");
  SourceId rows = Global("ROWS");
  Add(GuardKind::kLengthIs, rows, PyRef(), 3);
  Add(GuardKind::kConstantIs, Child(SourceKind::kListItem, rows, 0), python_.Eval("1"));
  SourceId inner = Child(SourceKind::kListItem, rows, 1);
  AddType(inner, "list");
  Add(GuardKind::kConstantIs, Child(SourceKind::kListItem, inner, 0), python_.Eval("2"));
  SourceId instance = Child(SourceKind::kListItem, rows, 2);
  AddType(instance, "C");
  Add(GuardKind::kConstantIs, Item(InstanceDict(instance), "n"), python_.Eval("1"));
  Build();
  ExpectPass("ROWS[1] = [2]");
  ExpectPass("ROWS[1].append(7)");
  ExpectFail("ROWS[0] = 1.0", "expected 1", "ROWS[0] = 1");
  ExpectFail("ROWS[1][0] = 3", "expected 2", "ROWS[1][0] = 2");
  ExpectFail("ROWS.append(1)", "length of G['ROWS'] is 4, expected 3", "ROWS.pop()");
  ExpectFail("ROWS.clear()", "expected 3", "ROWS += [1, [2], C()]\nROWS[2].n = 1");
  ExpectFail("ROWS[2].n = 2", "expected 1", "ROWS[2].n = 1");
  ExpectFail("ROWS[2] = None\nROWS[2] = C()\nROWS[2].n = 2", "expected 1", "ROWS[2].n = 1");
}

TEST_F(GuardProgramTest, FunctionParts) {
  python_.Run(
      "def make():\n  cell = 1\n  def f(x, y=10, *, z=20):\n    return cell\n  def set(v):\n    nonlocal cell; cell = "
      "v\n"
      "  return f, set\nf, set_cell = make()\ndef other(x, y=10, *, z=20): pass\ncode = f.__code__");
  SourceId function = sources_.Intern(SourceKind::kFunction, kNoSource);
  Add(GuardKind::kConstantIs, Child(SourceKind::kCellContents, Child(SourceKind::kCell, function, 0)),
      python_.Eval("1"));
  Add(GuardKind::kConstantIs, Child(SourceKind::kDefault, function, 0), python_.Eval("10"));
  PyRef z = python_.Eval("'z'");
  Add(GuardKind::kConstantIs, sources_.Intern(SourceKind::kKwDefault, function, z.get()), python_.Eval("20"));
  Add(GuardKind::kFunctionCode, function, python_.Eval("code"));
  Build();
  ExpectPass("f.attribute = 1");
  ExpectFail("set_cell(2)", "cell_contents is 2, expected 1", "set_cell(1)");
  ExpectFail("f.__defaults__ = (11,)", "expected 10", "f.__defaults__ = (10,)");
  ExpectFail("f.__defaults__ = None", "expected 10", "f.__defaults__ = (10,)");
  ExpectFail("f.__kwdefaults__['z'] = 21", "expected 20", "f.__kwdefaults__['z'] = 20");
  ExpectFail("f.__code__ = make()[0].__code__.replace(co_name='g')", "the code of F was replaced", "f.__code__ = code");
}

TEST_F(GuardProgramTest, ArgumentsAbsentSameAndDistinct) {
  python_.Run("def f(x, y=1, z=None): pass\na = [1]\nb = [2]\nx, y = a, b");
  arguments_ = {"x", "y", ""};
  AddType(Argument(0), "list");
  Add(GuardKind::kNotSameObject, Argument(0), PyRef(), 0, Argument(1));
  Add(GuardKind::kArgumentAbsent, Argument(2));
  Build();
  ExpectPass("x = [5]");
  ExpectFail("x = y", "same object as L['y']", "x = a");
  arguments_[2] = "a";
  EXPECT_FALSE(Passes());
}

TEST_F(GuardProgramTest, DictKeysAndTheirOrder) {
  python_.Run("import collections\nD = {'a': 1, 'b': 2}\nO = collections.OrderedDict(a=1, b=2)\ndef f(): pass");
  Add(GuardKind::kKeysAre, Global("D"), python_.Eval("('a', 'b')"));
  Add(GuardKind::kKeysAre, Global("O"), python_.Eval("('a', 'b')"));
  Build();
  ExpectPass("D['a'] = 5");
  ExpectFail("D['c'] = 1", "keys of G['D'] changed", "del D['c']");
  ExpectFail("D['a'] = D.pop('a')", "keys of G['D'] changed", "D['b'] = D.pop('b')");
  ExpectFail("O.move_to_end('a')", "keys of G['O'] changed", "O.move_to_end('b')");
}

TEST_F(GuardProgramTest, TorchState) {
  python_.Run("def f(): pass");
  Add(GuardKind::kTorchState, kNoSource);
  Build();
  ExpectFail("torch.set_grad_enabled(False)", "grad_mode is False, expected True", "torch.set_grad_enabled(True)");
  ExpectFail("torch.set_default_dtype(torch.float64)", "default_dtype", "torch.set_default_dtype(torch.float32)");
  ExpectFail("a = torch.autocast('cpu'); a.__enter__()", "dispatch keys differ", "a.__exit__(None, None, None)");
  ExpectFail("i = torch.inference_mode(); i.__enter__()", "inference_mode", "i.__exit__(None, None, None)");
  ExpectFail("torch.use_deterministic_algorithms(True)", "deterministic", "torch.use_deterministic_algorithms(False)");
  ExpectFail("torch.set_default_device('meta')", "modes", "torch.set_default_device(None)");
}

TEST_F(GuardProgramTest, ClassesAndTheirAttributes) {
  python_.Run("class B:\n  k = 1\nclass C(B): pass\nx = C()\ndef f(x): pass");
  arguments_ = {"x"};
  AddType(Argument(), "C");
  Add(GuardKind::kTypeVersion, kNoSource, PyRef::Borrow(python_["C"]));
  Build();
  ExpectPass("x = C()");
  python_.Run("B.k = 2");  // reaches C through its MRO
  EXPECT_FALSE(Passes());
  EXPECT_NE(program_->ExplainFailure(State()).find("was modified"), std::string::npos);
}

TEST_F(GuardProgramTest, OverlappingInputs) {
  python_.Run("a = torch.ones(8)\nb = torch.ones(8)\nP = torch.ones(8)\nx, y = a, b\ndef f(x, y): pass");
  arguments_ = {"x", "y"};
  for (SourceId id : {Argument(0), Argument(1), Global("P")})
    Add(GuardKind::kTensorMatches, id, PyRef::Borrow(python_["a"]));
  Add(GuardKind::kNoOverlap, kNoSource);
  Build();
  ExpectPass("x = torch.ones(8)");
  ExpectFail("x = y.view(8)", "input tensors share memory", "x = a");
  ExpectFail("x = P.view(8)", "input tensors share memory", "x = a");
  ExpectFail("n = a.numpy(); x, y = torch.from_numpy(n), torch.from_numpy(n)", "share memory", "x, y = a, b");
}

TEST_F(GuardProgramTest, NothingOfTheUsersIsKeptAlive) {
  python_.Run(
      "import weakref\nclass M: pass\nx = M()\nx.w = torch.ones(3)\nx.h = M()\nr = weakref.ref(x), weakref.ref(x.w), "
      "weakref.ref(x.h)\ndef f(x): pass");
  arguments_ = {"x"};
  AddType(Argument(), "M");
  SourceId w = Item(InstanceDict(Argument()), "w");
  Add(GuardKind::kTensorMatches, w, PyRef::Borrow(python_["x"] ? python_.Eval("x.w").get() : nullptr));
  Add(GuardKind::kIdentityIs, Item(InstanceDict(Argument()), "h"), python_.Eval("x.h"));
  fetch_ = {w};
  Build();
  EXPECT_TRUE(Passes());
  guards_ = GuardList();
  sources_ = SourceTable();
  python_.Run("x = None\nassert [ref() for ref in r] == [None] * 3\nx = M()\nx.w = torch.ones(3)\nx.h = M()");
  EXPECT_FALSE(Passes());
}

TEST_F(GuardProgramTest, UserCodeNeverRuns) {
  python_.Run(
      "class Loud:\n  def __getattribute__(self, n): raise SystemError(n)\n  def __eq__(self, o): raise SystemError\n"
      "  def __len__(self): raise SystemError\n  __hash__ = object.__hash__\n"
      "x = Loud()\nobject.__setattr__(x, 'n', 1)\ndef f(x): pass");
  arguments_ = {"x"};
  AddType(Argument(), "Loud");
  Add(GuardKind::kConstantIs, Item(InstanceDict(Argument()), "n"), python_.Eval("1"));
  Build();
  ExpectPass("pass");
  python_.Run("object.__setattr__(x, 'n', Loud())");
  EXPECT_FALSE(Passes());
  python_.Run("x = 5");
  EXPECT_FALSE(Passes());
}

TEST_F(GuardProgramTest, GuardsThatDoNotHoldAreNotBuilt) {
  python_.Run("N = 1\ndef f(): pass");
  Add(GuardKind::kConstantIs, Global("N"), python_.Eval("2"));
  auto program = GuardProgram::Build(sources_, guards_, {}, State(), {});
  ASSERT_FALSE(program.ok());
  EXPECT_EQ(program.status().message(), "G['N'] is 1, expected 2");
}

}  // namespace
}  // namespace framejit
