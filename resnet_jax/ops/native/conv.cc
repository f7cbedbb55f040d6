// What XLA calls. The caller has checked: two spatial dimensions, one stride of 1 or 2 for both, no dilation, no
// groups.

#include "conv.h"
#include "ffi.h"

namespace resnet_jax {
namespace {

using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::ResultBuffer<ffi::F32>;

Convolution of(const Array& x, const Array& kernel, const Array& y, Index stride, Index pad_y, Index pad_x) {
  auto in = x.dimensions(), window = kernel.dimensions(), out = y.dimensions();
  return {in[0], in[1], in[2], in[3], out[1], out[2], out[3], window[0], window[1], stride, pad_y, pad_x};
}

ffi::Error Forward(ffi::ThreadPool pool, Array x, Array kernel, Index stride, Index pad_y, Index pad_x, Result y) {
  forward(pool, of(x, kernel, *y, stride, pad_y, pad_x), x.typed_data(), kernel.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

// `more`: the bias where there is one, and then what is added.
ffi::Error Finished(ffi::ThreadPool pool, Array x, Array kernel, ffi::RemainingArgs more, Index stride, Index pad_y,
                    Index pad_x, bool bias, bool relu, Result y) {
  Finish finish;
  finish.relu = relu;
  for (size_t i = 0; i < more.size(); ++i) {
    auto operand = more.get<Array>(i);
    if (!operand.has_value()) return operand.error();
    (i == 0 && bias ? finish.bias : finish.skip) = operand->typed_data();
  }
  finished_forward(pool, of(x, kernel, *y, stride, pad_y, pad_x), x.typed_data(), kernel.typed_data(), finish,
                   y->typed_data());
  return ffi::Error::Success();
}

ffi::Error InputGradient(ffi::ThreadPool pool, Array g, Array kernel, Index stride, Index pad_y, Index pad_x,
                         Result x) {
  input_gradient(pool, of(*x, kernel, g, stride, pad_y, pad_x), g.typed_data(), kernel.typed_data(), x->typed_data());
  return ffi::Error::Success();
}

ffi::Error WeightGradient(ffi::ThreadPool pool, Array x, Array g, Index stride, Index pad_y, Index pad_x, Result dw) {
  weight_gradient(pool, of(x, *dw, g, stride, pad_y, pad_x), x.typed_data(), g.typed_data(), dw->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace resnet_jax

#define CONVOLUTION                      \
  xla::ffi::Ffi::Bind()                  \
      .Ctx<xla::ffi::ThreadPool>()       \
      .Arg<resnet_jax::Array>()          \
      .Arg<resnet_jax::Array>()          \
      .Attr<resnet_jax::Index>("stride") \
      .Attr<resnet_jax::Index>("pad_y")  \
      .Attr<resnet_jax::Index>("pad_x")  \
      .Ret<resnet_jax::Array>()

XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_forward, resnet_jax::Forward, CONVOLUTION);
XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_input_gradient, resnet_jax::InputGradient, CONVOLUTION);
XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_weight_gradient, resnet_jax::WeightGradient, CONVOLUTION);

XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_finished, resnet_jax::Finished,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<resnet_jax::Array>()
                                  .Arg<resnet_jax::Array>()
                                  .RemainingArgs()
                                  .Attr<resnet_jax::Index>("stride")
                                  .Attr<resnet_jax::Index>("pad_y")
                                  .Attr<resnet_jax::Index>("pad_x")
                                  .Attr<bool>("bias")
                                  .Attr<bool>("relu")
                                  .Ret<resnet_jax::Array>());
