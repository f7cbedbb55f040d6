// The weight gradient, in the form that suits it.

#include "winograd_gradient.h"

namespace resnet_jax {

void weight_gradient(ffi::ThreadPool& pool, Convolution op, const float* x, const float* g, float* dw) {
  if (takes_winograd(op)) return winograd_gradient(pool, op, x, g, dw);
  if (op.rows * op.columns == 1 && op.stride == 1 && op.pad_y == 0 && op.pad_x == 0) {  // pixels are all alike
    op.n *= op.h * op.w;
    op.h = op.w = op.out_h = op.out_w = 1;
  }
  if (op.k <= LANES) return weight_gradient_in_tiles<1>(pool, op, x, g, dw);
  return weight_gradient_in_tiles<2>(pool, op, x, g, dw);
}

}  // namespace resnet_jax
