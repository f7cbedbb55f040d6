// The three operations of a convolution over images, in float32, for the CPU that this file is compiled on.
//
// Arrays are dense and row-major: images (N, H, W, C), kernels (rows, columns, C, K). Sums are over fixed blocks in a
// fixed order that depends on the shapes alone: results do not depend on the number of threads.

#include "correlate.h"
#include "weight_gradient.h"

namespace resnet_jax {
namespace {

// Handlers. The caller has checked: two spatial dimensions, one stride of 1 or 2 for both, no dilation, no groups.

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

ffi::Error Forward(ffi::ThreadPool pool, Array x, Array kernel, Index stride, Index pad_y, Index pad_x, Result y) {
  auto in = x.dimensions(), window = kernel.dimensions(), out = y->dimensions();
  Correlation op{in[0], in[1], in[2], in[3], out[1], out[2], out[3], out[1], out[2], stride, 1, 0, 0, window[3], 1, {}};
  for (Index i = 0; i < window[0]; ++i)
    for (Index j = 0; j < window[1]; ++j)
      op.taps.push_back({i - pad_y, j - pad_x, kernel.typed_data() + (i * window[1] + j) * window[2] * window[3]});
  if (window[0] * window[1] == 1 && stride == 1 && pad_y == 0 && pad_x == 0) flatten(op);
  correlate_any(pool, op, x.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

ffi::Error InputGradient(ffi::ThreadPool pool, Array g, Array kernel, Index stride, Index pad_y, Index pad_x, Result x) {
  auto in = g.dimensions(), window = kernel.dimensions(), out = x->dimensions();
  for (Index py = 0; py < stride; ++py)
    for (Index px = 0; px < stride; ++px) {
      Correlation op{in[0], in[1], in[2], in[3], out[1], out[2], out[3], ceil_div(out[1] - py, stride),
                     ceil_div(out[2] - px, stride), 1, stride, py, px, 1, window[3], {}};
      for (Index i = 0; i < window[0]; ++i)
        for (Index j = 0; j < window[1]; ++j)
          if ((py + pad_y - i) % stride == 0 && (px + pad_x - j) % stride == 0)
            op.taps.push_back({(py + pad_y - i) / stride, (px + pad_x - j) / stride,
                               kernel.typed_data() + (i * window[1] + j) * window[2] * window[3]});
      if (window[0] * window[1] == 1 && stride == 1 && pad_y == 0 && pad_x == 0) flatten(op);
      correlate_any(pool, op, g.typed_data(), x->typed_data());
    }
  return ffi::Error::Success();
}

ffi::Error WeightGradientOf(ffi::ThreadPool pool, Array x, Array g, Index stride, Index pad_y, Index pad_x, Result dw) {
  auto in = x.dimensions(), out = g.dimensions(), window = dw->dimensions();
  WeightGradient op{in[0], in[1], in[2], in[3], out[1], out[2], out[3], window[0], window[1], stride, pad_y, pad_x};
  weight_gradient_any(pool, op, x.typed_data(), g.typed_data(), dw->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace resnet_jax

#define CONVOLUTION                                             \
  xla::ffi::Ffi::Bind()                                         \
      .Ctx<xla::ffi::ThreadPool>()                              \
      .Arg<resnet_jax::Array>()                                 \
      .Arg<resnet_jax::Array>()                                 \
      .Attr<resnet_jax::Index>("stride")                        \
      .Attr<resnet_jax::Index>("pad_y")                         \
      .Attr<resnet_jax::Index>("pad_x")                         \
      .Ret<resnet_jax::Array>()

XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_forward, resnet_jax::Forward, CONVOLUTION);
XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_input_gradient, resnet_jax::InputGradient, CONVOLUTION);
XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_weight_gradient, resnet_jax::WeightGradientOf, CONVOLUTION);
