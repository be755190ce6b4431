// ExitProgram: objects built from recipes have their classes, identities, cycles and attributes; effects come after
// everything was built, in order; a plan with a dangling reference is refused.
#include "frame_eval/exit_plan.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/cpp/support/embedded_python.h"

namespace framejit {
namespace {

using testing::Namespace;

class ExitPlanTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(testing::StartPython()); }

  RecipeId Add(Recipe recipe) {
    plan_.recipes.push_back(std::move(recipe));
    return static_cast<RecipeId>(plan_.recipes.size()) - 1;
  }
  RecipeId Constant(const char* expression) {
    Recipe recipe;
    recipe.object = python_.Eval(expression);
    return Add(std::move(recipe));
  }
  RecipeId Source(SourceId source) {
    Recipe recipe;
    recipe.kind = RecipeKind::kSource;
    recipe.source = source;
    return Add(std::move(recipe));
  }
  RecipeId Output(int32_t index) {
    Recipe recipe;
    recipe.kind = RecipeKind::kGraphOutput;
    recipe.index = index;
    return Add(std::move(recipe));
  }
  RecipeId Container(RecipeKind kind, std::vector<RecipeId> children, const char* cls = nullptr) {
    Recipe recipe;
    recipe.kind = kind;
    recipe.children = std::move(children);
    if (cls != nullptr) recipe.object = python_.Eval(cls);
    return Add(std::move(recipe));
  }
  Recipe& At(RecipeId id) { return plan_.recipes[static_cast<size_t>(id)]; }
  void SetAttribute(RecipeId id, const char* name, RecipeId value) {
    At(id).attributes.emplace_back(PyRef::Steal(PyUnicode_InternFromString(name)), value);
  }
  void AddEffect(EffectKind kind, RecipeId target, RecipeId key, RecipeId value) {
    plan_.effects.push_back(Effect{kind, target, key, value, PyRef(), PyRef()});
  }

  // Runs the plan and puts its value into the namespace as `r`. False where it raised.
  bool Run(RecipeId result, std::vector<PyObject*> sources = {}) {
    plan_.result = result;
    auto program = ExitProgram::Make(plan_, outputs_.size());
    EXPECT_TRUE(program.ok()) << program.status();
    if (!program.ok()) return false;
    EXPECT_EQ((*program)->sources().size(), sources.size());
    std::vector<at::Tensor> outputs = outputs_;
    PyRef value = PyRef::Steal((*program)->Run(sources, outputs));
    EXPECT_EQ(static_cast<bool>(value), PyErr_Occurred() == nullptr);
    return value && PyDict_SetItemString(python_.dict(), "r", value.get()) == 0;
  }
  bool Refused(RecipeId result) {
    plan_.result = result;
    return !ExitProgram::Make(plan_, outputs_.size()).ok();
  }
  void Holds(const char* expression) {
    PyRef value = python_.Eval(expression);
    EXPECT_TRUE(value && PyObject_IsTrue(value.get()) == 1) << expression;
  }

  Namespace python_;
  ExitPlan plan_;
  std::vector<at::Tensor> outputs_;
};

TEST_F(ExitPlanTest, OneTensorAndATupleOfTensors) {
  outputs_ = {at::ones({2}), at::zeros({3}), at::Tensor()};
  ASSERT_TRUE(Run(Output(1)));
  Holds("type(r) is torch.Tensor and r.tolist() == [0, 0, 0]");
  ASSERT_TRUE(Run(Container(RecipeKind::kTuple, {Output(0), Output(2), Output(1)})));
  Holds("type(r) is tuple and r[0].tolist() == [1, 1] and r[1] is None and r[2].shape == (3,)");
}

TEST_F(ExitPlanTest, OneOutputIsOneObjectWhereverItLeaves) {
  outputs_ = {at::ones({2})};
  ASSERT_TRUE(Run(Container(RecipeKind::kTuple, {Output(0), Output(0)})));
  Holds("r[0] is r[1]");
  ASSERT_TRUE(Run(Container(RecipeKind::kList, {Output(0), Container(RecipeKind::kTuple, {Output(0)})})));
  Holds("r[0] is r[1][0]");
}

TEST_F(ExitPlanTest, ContainersAndTheirSubclasses) {
  python_.Run(R"(
import collections
class L(list):
    def __init__(self): raise AssertionError('constructors must not run')
    def append(self, item): raise AssertionError('nor methods')
class D(dict):
    def __setitem__(self, key, value): raise AssertionError('nor item assignment')
class T(tuple): pass
class F(frozenset): pass
P = collections.namedtuple('P', 'x y')
)");
  RecipeId one = Constant("1"), two = Constant("2"), key = Constant("'k'");
  RecipeId list = Container(RecipeKind::kList, {one, two}, "L");
  SetAttribute(list, "note", two);
  RecipeId parts[] = {
      list,
      Container(RecipeKind::kDict, {key, one}, "D"),
      Container(RecipeKind::kDict, {key, one}, "collections.OrderedDict"),
      Container(RecipeKind::kTuple, {one, two}, "P"),
      Container(RecipeKind::kTuple, {one}, "T"),
      Container(RecipeKind::kTuple, {one, two}, "torch.Size"),
      Container(RecipeKind::kSet, {one, two}),
      Container(RecipeKind::kSet, {one}, "F"),
      Container(RecipeKind::kDeque, {one, two}),
      Container(RecipeKind::kSlice, {one, two, Constant("None")}),
  };
  At(parts[8]).index = 5;
  ASSERT_TRUE(Run(Container(RecipeKind::kList, {std::begin(parts), std::end(parts)})));
  Holds("type(r[0]) is L and list(r[0]) == [1, 2] and r[0].note == 2");
  Holds("type(r[1]) is D and dict(r[1]) == {'k': 1}");
  Holds("type(r[2]) is collections.OrderedDict and list(r[2].items()) == [('k', 1)]");
  Holds("r[3] == P(1, 2) and type(r[3]) is P and type(r[4]) is T and r[4] == (1,)");
  Holds("type(r[5]) is torch.Size and r[5] == (1, 2)");
  Holds("r[6] == {1, 2} and type(r[7]) is F and r[7] == {1}");
  Holds("r[8] == collections.deque([1, 2]) and r[8].maxlen == 5 and r[9] == slice(1, 2, None)");
}

TEST_F(ExitPlanTest, InstancesSlotsAndCycles) {
  python_.Run(R"(
class Node:
    __slots__ = ('next', '__dict__')
    def __init__(self): raise AssertionError
    def __setattr__(self, name, value): raise AssertionError
)");
  RecipeId node = Container(RecipeKind::kInstance, {}, "Node");
  RecipeId ring = Container(RecipeKind::kList, {node});
  At(ring).children.push_back(ring);
  SetAttribute(node, "next", node);
  SetAttribute(node, "ring", ring);
  ASSERT_TRUE(Run(Container(RecipeKind::kTuple, {node, ring})));
  Holds("type(r[0]) is Node and r[0].next is r[0] and r[0].ring is r[1] and r[1][1] is r[1] and r[1][0] is r[0]");
  Holds("list(r[0].__dict__) == ['ring']");
}

TEST_F(ExitPlanTest, ATupleInsideItsOwnListIsBuiltOnce) {
  RecipeId list = Container(RecipeKind::kList, {});
  RecipeId tuple = Container(RecipeKind::kTuple, {list});
  At(list).children.push_back(tuple);
  ASSERT_TRUE(Run(Container(RecipeKind::kList, {tuple, list})));
  Holds("r[0][0] is r[1] and r[1][0] is r[0] and len(r[1]) == 1");
}

TEST_F(ExitPlanTest, FunctionsMethodsAndCells) {
  python_.Run("def outer():\n  x = 1\n  def f(a, b=2, *, c=3): return a, b, c, x\n  return f\ncode = outer().__code__");
  RecipeId cell = Container(RecipeKind::kCell, {Constant("7")});
  RecipeId function = Container(RecipeKind::kFunction,
                                {Constant("globals()"), Constant("'named'"), Constant("(5,)"), Constant("{'c': 6}"),
                                 Container(RecipeKind::kTuple, {cell}), kNoRecipe, kNoRecipe},
                                "code");
  RecipeId method = Container(RecipeKind::kMethod, {function, Constant("'self'")});
  RecipeId empty = Container(RecipeKind::kCell, {kNoRecipe});
  ASSERT_TRUE(Run(Container(RecipeKind::kTuple, {function, method, empty})));
  Holds("r[0](1) == (1, 5, 6, 7) and r[0].__name__ == 'named' and r[1]() == ('self', 5, 6, 7)");
  Holds("r[1].__func__ is r[0] and type(r[2]).__name__ == 'cell' and repr(r[2]).endswith('empty>')");
}

TEST_F(ExitPlanTest, EffectsHappenInOrder) {
  python_.Run(R"(
class C: pass
c = C(); c.old = 1
d = {'a': 1, 'b': 2}; kept = [1, 2]; grown = [1]; s = {1, 2}
import collections
q = collections.deque([1], maxlen=3)
items = collections.deque([1, 2])
ordered = collections.OrderedDict(a=1)
over_items = iter(items)
)");
  SourceId next = 0;
  RecipeId c = Source(next++), d = Source(next++), kept = Source(next++), grown = Source(next++), s = Source(next++),
           q = Source(next++), items = Source(next++), ordered = Source(next++);
  RecipeId three = Constant("3"), four = Constant("4");
  RecipeId list = Container(RecipeKind::kList, {three, four});
  AddEffect(EffectKind::kSetAttribute, c, Constant("'new'"), three);
  AddEffect(EffectKind::kSetAttribute, c, Constant("'new'"), four);
  AddEffect(EffectKind::kDeleteAttribute, c, Constant("'old'"), kNoRecipe);
  AddEffect(EffectKind::kSetDictItem, d, Constant("'c'"), three);
  AddEffect(EffectKind::kDeleteDictItem, d, Constant("'a'"), kNoRecipe);
  AddEffect(EffectKind::kClearDict, ordered, kNoRecipe, kNoRecipe);
  AddEffect(EffectKind::kReplaceList, kept, kNoRecipe, list);
  AddEffect(EffectKind::kExtendList, grown, kNoRecipe, list);
  AddEffect(EffectKind::kReplaceSet, s, kNoRecipe, Container(RecipeKind::kSet, {four}));
  AddEffect(EffectKind::kReplaceDeque, q, kNoRecipe, list);
  AddEffect(EffectKind::kSetDequeItems, items, kNoRecipe, list);
  ASSERT_TRUE(Run(Container(RecipeKind::kTuple, {c, kept}),
                  {python_["c"], python_["d"], python_["kept"], python_["grown"], python_["s"], python_["q"],
                   python_["items"], python_["ordered"]}));
  Holds("r[0] is c and r[1] is kept and c.__dict__ == {'new': 4} and list(d.items()) == [('b', 2), ('c', 3)]");
  Holds("list(over_items) == [3, 4] and not ordered");
  Holds("kept == [3, 4] and grown == [1, 3, 4] and s == {4} and list(q) == [3, 4] and q.maxlen == 3");
}

TEST_F(ExitPlanTest, AFailureWhileBuildingLeavesTheWorldAlone) {
  python_.Run("d = {}");
  RecipeId d = Source(0);
  AddEffect(EffectKind::kSetDictItem, d, Constant("'k'"), Constant("1"));
  RecipeId unhashable = Container(RecipeKind::kSet, {Container(RecipeKind::kList, {})});
  AddEffect(EffectKind::kSetDictItem, d, Constant("'l'"), unhashable);
  EXPECT_FALSE(Run(d, {python_["d"]}));
  EXPECT_TRUE(PyErr_ExceptionMatches(PyExc_TypeError));
  PyErr_Clear();
  Holds("d == {}");
}

TEST_F(ExitPlanTest, OneSourceIsFetchedOnce) {
  python_.Run("x = object()");
  ASSERT_TRUE(Run(Container(RecipeKind::kList, {Source(4), Source(4)}), {python_["x"]}));
  Holds("r == [x, x]");
}

TEST_F(ExitPlanTest, DanglingReferencesAreRefused) {
  EXPECT_TRUE(Refused(kNoRecipe));
  EXPECT_TRUE(Refused(3));
  RecipeId good = Constant("1");
  EXPECT_FALSE(Refused(good));
  EXPECT_TRUE(Refused(Output(0)));
  plan_.recipes.pop_back();
  RecipeId list = Container(RecipeKind::kList, {99});
  EXPECT_TRUE(Refused(list));
  At(list).children.clear();
  SetAttribute(list, "a", 99);
  EXPECT_TRUE(Refused(list));
  At(list).attributes.clear();
  AddEffect(EffectKind::kSetDictItem, list, good, 99);
  EXPECT_TRUE(Refused(list));
}

}  // namespace
}  // namespace framejit
