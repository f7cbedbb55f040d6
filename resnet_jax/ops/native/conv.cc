// What XLA calls. The caller has checked: two spatial dimensions, one stride of 1 or 2 for both, no dilation, no
// groups.

#include "conv.h"
#include "ffi.h"
#include "packed.h"

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
ffi::Error read(const ffi::RemainingArgs& more, bool bias, bool relu, Finish& finish) {
  finish.relu = relu;
  for (size_t i = 0; i < more.size(); ++i) {
    auto operand = more.get<Array>(i);
    if (!operand.has_value()) return operand.error();
    (i == 0 && bias ? finish.bias : finish.skip) = operand->typed_data();
  }
  return ffi::Error::Success();
}

ffi::Error Finished(ffi::ThreadPool pool, Array x, Array kernel, ffi::RemainingArgs more, Index stride, Index pad_y,
                    Index pad_x, bool bias, bool relu, Result y) {
  Finish finish;
  if (const ffi::Error error = read(more, bias, relu, finish); error.message()) return error;
  finished_forward(pool, of(x, kernel, *y, stride, pad_y, pad_x), x.typed_data(), kernel.typed_data(), finish,
                   y->typed_data());
  return ffi::Error::Success();
}

ffi::Error Pack(ffi::ThreadPool pool, Array kernel, Index stride, Result out) {
  auto shape = kernel.dimensions();
  const packed::Kernel of{shape[0], shape[1], shape[2], shape[3], stride};
  if (of.form() == packed::NONE || Index(out->element_count()) != of.floats())
    return ffi::Error("no packed kernel has this size");
  packed::pack(pool, of, kernel.typed_data(), out->typed_data());
  return ffi::Error::Success();
}

ffi::Error Packed(ffi::ThreadPool pool, Array x, Array kernel, ffi::RemainingArgs more, Index rows, Index columns,
                  Index stride, Index pad_y, Index pad_x, bool bias, bool relu, Result y) {
  Finish finish;
  if (const ffi::Error error = read(more, bias, relu, finish); error.message()) return error;
  auto in = x.dimensions(), out = y->dimensions();
  const Convolution op{in[0], in[1], in[2], in[3], out[1], out[2], out[3], rows, columns, stride, pad_y, pad_x};
  const char* wrong = packed::forward(pool, op, x.typed_data(), kernel.typed_data(), kernel.element_count(), finish,
                                      y->typed_data());
  return ffi::Error(wrong);
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

XLA_FFI_DEFINE_HANDLER_SYMBOL(pack_kernel, resnet_jax::Pack,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<resnet_jax::Array>()
                                  .Attr<resnet_jax::Index>("stride")
                                  .Ret<resnet_jax::Array>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(conv_packed, resnet_jax::Packed,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<resnet_jax::Array>()
                                  .Arg<resnet_jax::Array>()
                                  .RemainingArgs()
                                  .Attr<resnet_jax::Index>("rows")
                                  .Attr<resnet_jax::Index>("columns")
                                  .Attr<resnet_jax::Index>("stride")
                                  .Attr<resnet_jax::Index>("pad_y")
                                  .Attr<resnet_jax::Index>("pad_x")
                                  .Attr<bool>("bias")
                                  .Attr<bool>("relu")
                                  .Ret<resnet_jax::Array>());

// The floats of a packed kernel; 0 where it is not packed.
extern "C" int64_t packed_floats(int64_t rows, int64_t columns, int64_t c, int64_t k, int64_t stride) {
  return resnet_jax::packed::Kernel{rows, columns, c, k, stride}.floats();
}
