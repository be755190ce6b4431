// What is only shown to us of torch's objects (saved attributes of autograd's nodes) looks at no number.
#ifndef FRAMEJIT_GRAPH_FAKE_SHOWN_NUMBERS_H_
#define FRAMEJIT_GRAPH_FAKE_SHOWN_NUMBERS_H_

namespace framejit {

// While alive, open numbers of this thread say what they are worth without being looked at (OpenNumber::looked).
class ShownNumbers {
 public:
  ShownNumbers();
  ~ShownNumbers();
  ShownNumbers(const ShownNumbers&) = delete;
  ShownNumbers& operator=(const ShownNumbers&) = delete;

 private:
  bool before_;
};

}  // namespace framejit

#endif  // FRAMEJIT_GRAPH_FAKE_SHOWN_NUMBERS_H_
