// ArgumentBinder against CPython's own binding: for many signatures and calls, what a function's locals() says, and
// that exactly the calls that raise TypeError are refused.
#include "frame_eval/argument_binder.h"

#include <gtest/gtest.h>

#include "tests/cpp/support/embedded_python.h"

namespace framejit {
namespace {

using testing::Namespace;

const char* const kSignatures[] = {
    "",
    "a",
    "a, b=2",
    "a, /, b",
    "a, b=2, /, c=3",
    "a=1, /, **kw",
    "*args",
    "a, *args",
    "a, *args, k",
    "a, b=2, *args, k=5, **kw",
    "*, k",
    "*, k=1, l",
    "**kw",
    "a, /, *, k=1, **kw",
};

const char* const kCalls[] = {
    "",
    "1",
    "1, 2",
    "1, 2, 3",
    "1, 2, 3, 4",
    "a=1",
    "b=1",
    "k=1",
    "a=1, b=2",
    "b=2, a=1",
    "1, b=2",
    "1, a=2",
    "1, 2, b=3",
    "k=1, l=2",
    "l=2",
    "1, k=2",
    "1, 2, 3, k=4",
    "1, 2, k=4, z=5",
    "z=5",
    "a=1, z=5",
    "1, a=2, k=3",
    "1, c=3",
    "1, 2, c=4",
    "*(1, 2), k=3",
    "**{'a': 1}",
    "**{'k': 1, 'z y': 2}",
};

// What f itself sees of a call, or None where CPython refuses it; and the defaults, which the binder leaves out.
// (inspect.Signature.bind is no judge: it refuses keywords that share a positional-only parameter's name.)
constexpr char kHelpers[] = R"(
def arguments_of(text):
    return eval(f'(lambda *args, **kwargs: (args, kwargs))({text})')

def bind(f, args, kwargs):
    try:
        return f(*args, **kwargs)
    except TypeError:
        return None

def defaults(f):
    positional = f.__code__.co_varnames[:f.__code__.co_argcount]
    values = f.__defaults__ or ()
    return {**dict(zip(positional[len(positional) - len(values):], values)), **(f.__kwdefaults__ or {})}
)";

class ArgumentBinderTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(testing::StartPython()); }
  void SetUp() override { python_.Run(kHelpers); }

  // What the binder makes of a call, as a dict by parameter name; a null reference where it refuses.
  PyRef Bind(PyObject* function, PyObject* args, PyObject* kwargs) {
    ArgumentBinder binder(reinterpret_cast<PyCodeObject*>(PyFunction_GET_CODE(function)));
    std::vector<PyObject*> stack;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args); ++i) stack.push_back(PyTuple_GET_ITEM(args, i));
    PyRef names = PyRef::Steal(PySequence_Tuple(kwargs));
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names.get()); ++i) {
      stack.push_back(PyDict_GetItem(kwargs, PyTuple_GET_ITEM(names.get(), i)));
    }
    BoundArguments bound;
    bool done = binder.Bind(reinterpret_cast<PyFunctionObject*>(function), stack.data(), PyTuple_GET_SIZE(args),
                            stack.size() > static_cast<size_t>(PyTuple_GET_SIZE(args)) ? names.get() : nullptr, bound);
    EXPECT_EQ(PyErr_Occurred(), nullptr);
    if (!done) return PyRef();
    std::vector<std::string> parameters = binder.Names();
    EXPECT_EQ(parameters.size(), bound.slots().size());
    PyRef result = PyRef::Steal(PyDict_New());
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (bound.slots()[i] != nullptr) PyDict_SetItemString(result.get(), parameters[i].c_str(), bound.slots()[i]);
    }
    return result;
  }

  Namespace python_;
};

TEST_F(ArgumentBinderTest, BindsAsCPythonDoes) {
  int accepted = 0, refused = 0;
  for (const char* signature : kSignatures) {
    python_.Run(std::string("def f(") + signature + "): return dict(locals())");
    for (const char* call : kCalls) {
      python_.Run(std::string("args, kwargs = arguments_of(\"\"\"") + call +
                  "\"\"\")\nexpected = bind(f, args, kwargs)");
      PyRef actual = Bind(python_["f"], python_["args"], python_["kwargs"]);
      PyObject* expected = python_["expected"];
      std::string what = std::string("def f(") + signature + "); f(" + call + ")";
      if (expected == Py_None) {
        EXPECT_FALSE(actual) << what;
        ++refused;
      } else {
        ASSERT_TRUE(actual) << what;
        PyDict_SetItemString(python_.dict(), "actual", actual.get());
        PyRef same = python_.Eval("{**defaults(f), **actual} == expected");
        EXPECT_EQ(same.get(), Py_True) << what;
        ++accepted;
      }
    }
  }
  EXPECT_GT(accepted, 80);
  EXPECT_GT(refused, 100);
}

TEST_F(ArgumentBinderTest, KeywordsNeedNotBeInterned) {
  python_.Run("def f(first, second=2): pass\nname = ''.join(['sec', 'ond'])\nargs, kwargs = (1,), {name: 3}");
  PyRef bound = Bind(python_["f"], python_["args"], python_["kwargs"]);
  ASSERT_TRUE(bound);
  EXPECT_EQ(PyLong_AsLong(PyDict_GetItemString(bound.get(), "second")), 3);
}

TEST_F(ArgumentBinderTest, MatchesUntilTheCodeIsReplaced) {
  python_.Run("def f(a): pass\ndef g(b): pass");
  auto* function = reinterpret_cast<PyFunctionObject*>(python_["f"]);
  ArgumentBinder binder(reinterpret_cast<PyCodeObject*>(function->func_code));
  EXPECT_TRUE(binder.Matches(function));
  python_.Run("f.__code__ = g.__code__");
  EXPECT_FALSE(binder.Matches(function));
}

}  // namespace
}  // namespace framejit
