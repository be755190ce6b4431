// What torch asks of open numbers without asking what they are worth, and operators that are given them as numbers. An
// answer to a comparison is kept with the recording: its graph is one of the numbers that give the same answers.
#ifndef FRAMEJIT_GRAPH_FAKE_NUMBER_ANSWERS_H_
#define FRAMEJIT_GRAPH_FAKE_NUMBER_ANSWERS_H_

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <memory>
#include <vector>

#include "graph/graph.h"

namespace framejit {

struct OpenNumber;

enum class NumberRelation : uint8_t { kEqual, kLess, kLessOrEqual, kGreater, kGreaterOrEqual };
bool Holds(NumberRelation relation, double left, double right);

struct NumberAnswer {
  NumberRelation relation;
  ValueId number = kNoValue;
  ValueId other = kNoValue;  // what it was compared with: another number, or else
  double constant = 0;
  bool answer = false;
};

// Those of the recording that is current.
const std::vector<NumberAnswer>& NumberAnswers();
// Demands that the number stay related to the constant as it is here.
void Demand(OpenNumber& number, NumberRelation relation, double constant);

// A number that is a value of the current recording's graph already.
std::shared_ptr<OpenNumber> NumberOfValue(ValueId value, const at::Scalar& hint);
// Whether the operator is the same one in the graph whatever its numbers are, so that open ones may be its operands.
bool TakesOpenNumbers(const c10::OperatorHandle& op);
// Null where the argument is no open number of the current recording.
std::shared_ptr<OpenNumber> NumberOfArgument(const c10::IValue& value);
// The number as an argument of operators that take numbers.
c10::IValue ArgumentOfNumber(const std::shared_ptr<OpenNumber>& number);

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_NUMBER_ANSWERS_H_
