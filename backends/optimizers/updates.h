// What the optimizers of torch.optim do to one parameter in one step, in one pass over its memory. The operations and
// their order are those of torch/optim's single-tensor functions (which its foreach functions share), so that each
// element is rounded as in eager mode; AVX-512 or AVX2 is chosen at run time. Owns the arithmetic; which tensors are
// updated and whether they may be is decided in frame_eval/optimizer_steps.
#ifndef FRAMEJIT_BACKENDS_OPTIMIZERS_UPDATES_H_
#define FRAMEJIT_BACKENDS_OPTIMIZERS_UPDATES_H_

#include <array>
#include <cstdint>

namespace framejit {

// state: the momentum buffer, where momentum is not 0.
struct SgdUpdate {
  double lr = 0, momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false, maximize = false;
};

// Adam and AdamW (decoupled). state: exp_avg, exp_avg_sq, and with amsgrad max_exp_avg_sq.
struct AdamUpdate {
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  bool decoupled = false, amsgrad = false, maximize = false;
  double step = 0;  // this one's number, from 1 on
};

// state: square_avg; where momentum is not 0, momentum_buffer; if centered, grad_avg.
struct RmspropUpdate {
  double lr = 0, alpha = 0, eps = 0, weight_decay = 0, momentum = 0;
  bool centered = false, maximize = false;
};

// state: sum.
struct AdagradUpdate {
  double lr = 0, lr_decay = 0, eps = 0, weight_decay = 0;
  bool maximize = false;
  double step = 0;
};

// Elements of one parameter, of its gradient and of its state, in the order named above; unused ones are null. No two
// share memory.
template <typename T>
struct UpdateStreams {
  T* parameter = nullptr;
  const T* gradient = nullptr;
  std::array<T*, 3> state = {};
};

// Updates the elements from `begin` to `end`. T: float, double.
template <typename T>
void Update(const SgdUpdate& update, const UpdateStreams<T>& streams, int64_t begin, int64_t end);
template <typename T>
void Update(const AdamUpdate& update, const UpdateStreams<T>& streams, int64_t begin, int64_t end);
template <typename T>
void Update(const RmspropUpdate& update, const UpdateStreams<T>& streams, int64_t begin, int64_t end);
template <typename T>
void Update(const AdagradUpdate& update, const UpdateStreams<T>& streams, int64_t begin, int64_t end);

}  // namespace framejit

#endif  // FRAMEJIT_BACKENDS_OPTIMIZERS_UPDATES_H_
