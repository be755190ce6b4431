// What a symbolic program demands, as text.
#include "graph/symbolic/program.h"

#include <gtest/gtest.h>

#include "tests/cpp/support/embedded_python.h"

namespace framejit {
namespace {

class ProgramTest : public ::testing::Test {
 protected:
  ProgramTest() {
    EXPECT_TRUE(testing::StartPython());
    python_ = std::make_unique<testing::Namespace>();
    python_->Run("import operator");
    program_.symbols.push_back({python_->Eval("1000"), "x.shape[0]"});
  }
  TorchArgument Constant(const char* text) {
    TorchArgument argument;
    argument.constant = python_->Eval(text);
    return argument;
  }
  TorchArgument SymbolArgument(SymbolId id) {
    TorchArgument argument;
    argument.constant = program_.symbols[static_cast<size_t>(id)].hint;
    argument.symbol = id;
    return argument;
  }
  SymbolStep Ask(const char* function, std::vector<TorchArgument> args, TorchArgument result) {
    SymbolStep step{.kind = SymbolStep::Kind::kAsk};
    step.ask.target = python_->Eval(function);
    step.ask.args = std::move(args);
    step.ask.result = std::move(result);
    return step;
  }
  std::unique_ptr<testing::Namespace> python_;
  SymbolicProgram program_;
};

TEST_F(ProgramTest, OperatorsAreInfix) {
  const SymbolStep step = Ask("operator.mul", {SymbolArgument(0), Constant("2")}, SymbolArgument(0));
  EXPECT_EQ(AskText(step.ask, program_, {}), "(x.shape[0] * 2)");
  EXPECT_EQ(DemandText(step, program_, {}), "");  // defines a symbol alone
}

TEST_F(ProgramTest, ConditionsAreDemands) {
  const SymbolStep holds = Ask("operator.gt", {SymbolArgument(0), Constant("4")}, Constant("True"));
  const SymbolStep fails = Ask("operator.gt", {SymbolArgument(0), Constant("4")}, Constant("False"));
  EXPECT_EQ(DemandText(holds, program_, {}), "(x.shape[0] > 4)");
  EXPECT_EQ(DemandText(fails, program_, {}), "not (x.shape[0] > 4)");
}

TEST_F(ProgramTest, DemandsAreSaidOnce) {
  SymbolStep equal{.kind = SymbolStep::Kind::kEqual};
  equal.symbol = 0;
  program_.steps = {equal, equal, Ask("max", {SymbolArgument(0), Constant("1")}, SymbolArgument(0))};
  EXPECT_EQ(PrintDemands(program_, {}), "x.shape[0] == 1000\n");
}

TEST_F(ProgramTest, NumbersDemandNothing) {
  program_.symbols.push_back({python_->Eval("1001"), "17"});
  SymbolStep equal{.kind = SymbolStep::Kind::kEqual};
  equal.symbol = 1;
  program_.steps = {equal, Ask("operator.gt", {SymbolArgument(1), Constant("4")}, Constant("False"))};
  EXPECT_EQ(PrintDemands(program_, {}), "");
}

TEST_F(ProgramTest, WhatKindOfTensorItIsGoesWithoutSaying) {
  TorchArgument tensor;
  tensor.kind = TorchArgument::Kind::kValue;
  tensor.value = 0;
  SymbolStep step = Ask("'dtype'", {tensor}, Constant("torch.float32"));
  step.ask.kind = TorchCall::Kind::kAttribute;
  program_.steps = {step};
  EXPECT_EQ(PrintDemands(program_, {"y"}), "");
  EXPECT_EQ(DemandText(step, program_, {"y"}), "y.dtype is torch.float32");
}

TEST_F(ProgramTest, AnyTellsWhetherSizesAreOpen) {
  EXPECT_FALSE(program_.any());
  program_.varies = {false, true};
  EXPECT_TRUE(program_.any());
}

}  // namespace
}  // namespace framejit
