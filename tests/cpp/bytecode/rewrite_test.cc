// Refusals and errors of rewriting; that rewritten code runs right is shown by
// tests/python/interpreters/check_rewrite.py.
#include "bytecode/rewrite.h"

#include <gtest/gtest.h>

#include "bytecode/reentry.h"
#include "tests/cpp/bytecode/embedded_python.h"

namespace framejit {
namespace {

Reentries Analyze(const DecodedCode& code) {
  absl::StatusOr<Reentries> reentries = Reentries::Analyze(code);
  EXPECT_TRUE(reentries.ok()) << reentries.status().message();
  return *std::move(reentries);
}

TEST(ReentryTest, RefusesThePrefix) {
  DecodedCode code = FunctionCode("def f(a):\n  yield lambda: a\n").Decode();
  const Reentries reentries = Analyze(code);
  const int resume = Find(code, "RESUME");
  for (int i = 0; i <= resume; ++i) EXPECT_EQ(reentries.Refusal(i), ReentryRefusal::kPrefix) << i;
  EXPECT_EQ(reentries.Refusal(Find(code, "YIELD_VALUE") + 1), ReentryRefusal::kAfterYield);
  EXPECT_TRUE(reentries.IsLegal(resume + 1));
  EXPECT_TRUE(IsLegalReentry(code, resume + 1));
  EXPECT_FALSE(IsLegalReentry(code, resume));
  EXPECT_FALSE(IsLegalReentry(code, -1));
  EXPECT_FALSE(IsLegalReentry(code, code.size()));
}

TEST(ReentryTest, CallSequencesStayTogether) {
  DecodedCode code = FunctionCode("def f(a): return a(1, b=2)\n").Decode();
  const Reentries reentries = Analyze(code);
  for (const char* leader : {"KW_NAMES", "PRECALL"}) {
    const int index = Find(code, leader);
    if (index < 0) continue;  // not in this minor
    EXPECT_EQ(reentries.Refusal(index + 1), ReentryRefusal::kCall) << leader;
  }
  const int call = std::max(Find(code, "CALL"), Find(code, "CALL_KW"));
  EXPECT_TRUE(reentries.IsLegal(call + 1));
  EXPECT_EQ(reentries.LegalAfter(call), std::vector<int>{call + 1});
}

TEST(ReentryTest, AnExhaustedLoopGoesOnBehindItsEnd) {
  DecodedCode code = FunctionCode("def f(a):\n  for x in a: g(x)\n  return 1\n").Decode();
  const Reentries reentries = Analyze(code);
  const int iterate = Find(code, "FOR_ITER");
  const std::vector<int> next = Successors(code, iterate);
  ASSERT_EQ(next.size(), 2u);
  EXPECT_EQ(next[0], iterate + 1);
  EXPECT_TRUE(reentries.IsLegal(next[1]));
  EXPECT_EQ(reentries.DepthAt(next[1]), reentries.DepthAt(iterate) - 1);
  for (int i = code[iterate].target; i < next[1]; ++i) EXPECT_EQ(reentries.Refusal(i), ReentryRefusal::kEndFor);
  EXPECT_EQ(reentries.LegalAfter(iterate), next);
}

TEST(ReentryTest, SendLoopsStayTogether) {
  DecodedCode code = FunctionCode("def f(a):\n  x = yield from a\n  return x\n").Decode();
  const Reentries reentries = Analyze(code);
  const int send = Find(code, "SEND");
  for (int i = send; i < code[send].target; ++i) EXPECT_FALSE(reentries.IsLegal(i)) << i;
}

TEST(ReentryTest, HandlersKeepWhatTheyHandle) {
  DecodedCode code = FunctionCode("def f():\n  try: g()\n  except KeyError: h()\n").Decode();
  const Reentries reentries = Analyze(code);
  const int push = Find(code, "PUSH_EXC_INFO");
  EXPECT_EQ(reentries.Refusal(push), ReentryRefusal::kHandler);
  ASSERT_TRUE(reentries.IsLegal(push + 1));
  EXPECT_EQ(reentries.SavedAt(push + 1), std::vector<int>{0});
  const int pop = Find(code, "POP_EXCEPT");
  EXPECT_EQ(reentries.Refusal(pop), ReentryRefusal::kUncovered);
  EXPECT_TRUE(reentries.CanEnter(pop));
  EXPECT_TRUE(reentries.SavedAt(push - 1).empty());
}

TEST(ReentryTest, EveryRefusalHasAReason) {
  EXPECT_EQ(ReentryRefusalName(ReentryRefusal::kEndFor), "kEndFor");
  EXPECT_EQ(ReentryRefusalReason(ReentryRefusal::kNone), "");
  EXPECT_NE(ReentryRefusalReason(ReentryRefusal::kUncovered), "");
}

constexpr const char* kExcept = "def f(a):\n  try:\n    return g(a)\n  except KeyError:\n    return h(a)\n";

EnterAt AfterPush(const DecodedCode& code) {
  return {.target = Find(code, "PUSH_EXC_INFO") + 1, .locals = {0}, .stack = {true, true}};
}

TEST(RewriteTest, MakesACodeObjectOfOneArgument) {
  TestCode code = FunctionCode(kExcept);
  absl::StatusOr<PyRef> made = MakeEnterAt(code.get(), AfterPush(code.Decode()));
  ASSERT_TRUE(made.ok()) << made.status().message();
  PyCodeObject* object = reinterpret_cast<PyCodeObject*>(made->get());
  EXPECT_EQ(object->co_argcount, 1);
  EXPECT_EQ(object->co_flags, code.get()->co_flags);
  EXPECT_EQ(SlotShift(code.get(), object), 0);
  EXPECT_TRUE(*StateHasException(code.get(), AfterPush(code.Decode()).target));
}

void ExpectRefused(const TestCode& code, const EnterAt& enter, const char* message) {
  absl::StatusOr<PyRef> made = MakeEnterAt(code.get(), enter);
  ASSERT_FALSE(made.ok()) << message;
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(made.status().message().find(message), absl::string_view::npos) << made.status().message();
  EXPECT_EQ(PyErr_Occurred(), nullptr);
}

TEST(RewriteTest, RefusesStatesThatDoNotFit) {
  TestCode code = FunctionCode(kExcept);
  const EnterAt good = AfterPush(code.Decode());
  EnterAt enter = good;
  enter.target = -1;
  ExpectRefused(code, enter, "no instruction has index");
  enter.target = 0;
  ExpectRefused(code, enter, "cannot enter at instruction 0");
  enter = good;
  enter.stack = {true};
  ExpectRefused(code, enter, "the state has 1 stack values, the code 2");
  enter.stack = {false, true};
  ExpectRefused(code, enter, "lacks a saved exception");
  enter = good;
  enter.locals = {0, 0};
  ExpectRefused(code, enter, "slot 0");
  enter.locals = {1};
  ExpectRefused(code, enter, "slot 1");
  enter = good;
  enter.reentries = {{good.target, PyRef()}};
  ExpectRefused(code, enter, "without a hook");
  enter = good;
  enter.inner_call = true;
  enter.stack = {true};
  enter.call = 0;
  ExpectRefused(code, enter, "without a marker");
  enter.marker = PyRef::Borrow(Py_None);
  enter.call = 1000;
  ExpectRefused(code, enter, "no instruction has index 1000");
}

TEST(RewriteTest, RefusesFramesThatCannotBeEntered) {
  ExpectRefused(FunctionCode("def f(): yield 1"), {.target = 5}, "generator");
  ExpectRefused(TestCode("code = compile('a = 1', 'text', 'exec')"), {.target = 1}, "no function's");
}

TEST(RewriteTest, AddsAVariableWhereThereIsNone) {
  TestCode code = FunctionCode("def f(): return g(1)");
  const int load = Find(code.Decode(), "RESUME") + 1;
  absl::StatusOr<PyRef> made = MakeWithReentries(code.get(), {{load, PyRef::Borrow(Py_None)}});
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ(SlotShift(code.get(), reinterpret_cast<PyCodeObject*>(made->get())), 1);
  absl::Status status = MakeWithReentries(code.get(), {{0, PyRef::Borrow(Py_None)}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace framejit
