// The part of XLA's C++ interface for foreign functions (xla/ffi/api/ffi.h) that is used here, under the same names, over
// its C interface. The templates of the original take 1 to 3 s of the compilation of each unit that includes it, half of
// all; these take a tenth of that. A function is checked as there: the numbers of its operands and results, their
// types, its attributes by name.
#pragma once

#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "xla/ffi/api/c_api.h"

namespace xla::ffi {

constexpr XLA_FFI_DataType F32 = XLA_FFI_DataType_F32;

// What went wrong, a constant text; or nothing.
class Error {
 public:
  static Error Success() { return Error(nullptr); }
  explicit Error(const char* message) : message_(message) {}
  const char* message() const { return message_; }

 private:
  const char* message_;
};

template <typename T>
class Span {
 public:
  Span(T* data, size_t size) : data_(data), size_(size) {}
  size_t size() const { return size_; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }
  T& front() const { return data_[0]; }
  T& back() const { return data_[size_ - 1]; }
  T& operator[](size_t i) const { return data_[i]; }

 private:
  T* data_;
  size_t size_;
};

// An array of float32; no others are used.
template <XLA_FFI_DataType type>
class Buffer {
  static_assert(type == F32);

 public:
  explicit Buffer(const XLA_FFI_Buffer* buffer) : buffer_(buffer) {}
  float* typed_data() const { return static_cast<float*>(buffer_->data); }
  Span<const int64_t> dimensions() const { return {buffer_->dims, static_cast<size_t>(buffer_->rank)}; }
  size_t element_count() const {
    size_t count = 1;
    for (int64_t size : dimensions()) count *= size;
    return count;
  }

 private:
  const XLA_FFI_Buffer* buffer_;
};

template <typename T>
class Result {
 public:
  explicit Result(const XLA_FFI_Buffer* buffer) : value_(buffer) {}
  T& operator*() { return value_; }
  T* operator->() { return &value_; }

 private:
  T value_;
};

template <XLA_FFI_DataType type>
using ResultBuffer = Result<Buffer<type>>;

// A value, or what is wrong with it.
template <typename T>
class ErrorOr {
 public:
  ErrorOr(T value) : value_(value), error_(Error::Success()) {}
  ErrorOr(T value, Error error) : value_(value), error_(error) {}
  bool has_value() const { return error_.message() == nullptr; }
  Error error() const { return error_; }
  T& operator*() { return value_; }
  T* operator->() { return &value_; }

 private:
  T value_;
  Error error_;
};

class ThreadPool {
 public:
  explicit ThreadPool(const XLA_FFI_CallFrame* frame) : api_(frame->api), context_(frame->ctx) {}

  // Where a task cannot be handed over it is done here.
  template <typename F>
  void Schedule(F&& f) {
    auto* data = new F(std::forward<F>(f));
    XLA_FFI_Task* task = [](void* data) {
      (*static_cast<F*>(data))();
      delete static_cast<F*>(data);
    };
    XLA_FFI_ThreadPool_Schedule_Args args{XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr, context_, task, data};
    if (failed(api_->XLA_FFI_ThreadPool_Schedule(&args))) task(data);
  }

  int64_t num_threads() const {
    int64_t count = 0;
    XLA_FFI_ThreadPool_NumThreads_Args args{XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr, context_, &count};
    failed(api_->XLA_FFI_ThreadPool_NumThreads(&args));
    return count;
  }

 private:
  bool failed(XLA_FFI_Error* error) const {
    if (error == nullptr) return false;
    XLA_FFI_Error_Destroy_Args args{XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
    api_->XLA_FFI_Error_Destroy(&args);
    return true;
  }

  const XLA_FFI_Api* api_;
  XLA_FFI_ExecutionContext* context_;
};

// Takes a call apart, one thing after the other. Of what is wrong the first is kept.
class Decoder {
 public:
  explicit Decoder(const XLA_FFI_CallFrame* frame) : frame_(frame) {}

  const XLA_FFI_Buffer* arg(int64_t i) {
    const bool is_buffer = i < frame_->args.size && frame_->args.types[i] == XLA_FFI_ArgType_BUFFER;
    return checked(is_buffer ? frame_->args.args[i] : nullptr, "an operand is missing or is no array of float32");
  }
  const XLA_FFI_Buffer* next_arg() { return arg(args_++); }
  const XLA_FFI_Buffer* next_ret() {
    const int64_t i = rets_++;
    const bool is_buffer = i < frame_->rets.size && frame_->rets.types[i] == XLA_FFI_RetType_BUFFER;
    return checked(is_buffer ? frame_->rets.rets[i] : nullptr, "a result is missing or is no array of float32");
  }
  const void* attr(const char* name, XLA_FFI_DataType type) {
    const XLA_FFI_Attrs& attrs = frame_->attrs;
    for (int64_t i = 0; i < attrs.size; ++i) {
      if (attrs.names[i]->len != std::strlen(name) || std::memcmp(attrs.names[i]->ptr, name, attrs.names[i]->len) != 0)
        continue;
      const auto* scalar = static_cast<const XLA_FFI_Scalar*>(attrs.attrs[i]);
      if (attrs.types[i] == XLA_FFI_AttrType_SCALAR && scalar->dtype == type) return scalar->value;
    }
    fail("an attribute is missing or of another type");
    static const int64_t nothing = 0;
    return &nothing;
  }
  int64_t remaining() {
    const int64_t count = frame_->args.size - args_;
    args_ = frame_->args.size;
    return count;
  }
  int64_t args_so_far() const { return args_; }
  const XLA_FFI_CallFrame* frame() const { return frame_; }
  // To be asked at the end.
  const char* wrong() {
    if (args_ != frame_->args.size) fail("there are more operands than the function takes");
    if (rets_ != frame_->rets.size) fail("there are more results than the function gives");
    return wrong_;
  }

 private:
  void fail(const char* message) {
    if (wrong_ == nullptr) wrong_ = message;
  }
  const XLA_FFI_Buffer* checked(const void* found, const char* message) {
    const auto* buffer = static_cast<const XLA_FFI_Buffer*>(found);
    if (buffer == nullptr || buffer->dtype != F32) fail(message);
    return buffer;
  }

  const XLA_FFI_CallFrame* frame_;
  int64_t args_ = 0, rets_ = 0;
  const char* wrong_ = nullptr;
};

// The operands after those that were named.
class RemainingArgs {
 public:
  explicit RemainingArgs(Decoder& decoder) : frame_(decoder.frame()), first_(decoder.args_so_far()) {
    size_ = decoder.remaining();
  }
  size_t size() const { return size_; }

  template <typename T>
  ErrorOr<T> get(size_t i) const {
    Decoder decoder(frame_);
    const T value(decoder.arg(first_ + i));
    const bool bad = frame_->args.types[first_ + i] != XLA_FFI_ArgType_BUFFER ||
                     static_cast<const XLA_FFI_Buffer*>(frame_->args.args[first_ + i])->dtype != F32;
    return {value, bad ? Error("an operand is no array of float32") : Error::Success()};
  }

 private:
  const XLA_FFI_CallFrame* frame_;
  int64_t first_, size_;
};

// The parameters of a function, each with how it is taken from a call.
namespace parts {

struct Pool {
  static ThreadPool take(Decoder& decoder, const char*) { return ThreadPool(decoder.frame()); }
};
template <typename T>
struct Arg {
  static T take(Decoder& decoder, const char*) { return T(decoder.next_arg()); }
};
template <typename T>
struct Ret {
  static Result<T> take(Decoder& decoder, const char*) { return Result<T>(decoder.next_ret()); }
};
struct Rest {
  static RemainingArgs take(Decoder& decoder, const char*) { return RemainingArgs(decoder); }
};
template <typename T>
struct Attr;
template <>
struct Attr<int64_t> {
  static int64_t take(Decoder& decoder, const char* name) {
    return *static_cast<const int64_t*>(decoder.attr(name, XLA_FFI_DataType_S64));
  }
};
template <>
struct Attr<bool> {
  static bool take(Decoder& decoder, const char* name) {
    return *static_cast<const bool*>(decoder.attr(name, XLA_FFI_DataType_PRED));
  }
};

}  // namespace parts

constexpr int MOST_PARAMETERS = 16;

template <typename... Parts>
struct Binding {
  const char* names[MOST_PARAMETERS] = {};  // of attributes

  template <typename Part>
  constexpr Binding<Parts..., Part> with(const char* name) const {
    static_assert(sizeof...(Parts) < MOST_PARAMETERS);
    Binding<Parts..., Part> longer;
    for (size_t i = 0; i < sizeof...(Parts); ++i) longer.names[i] = names[i];
    longer.names[sizeof...(Parts)] = name;
    return longer;
  }
  template <typename T>
  constexpr auto Ctx() const {
    return with<parts::Pool>(nullptr);
  }
  template <typename T>
  constexpr auto Arg() const {
    return with<parts::Arg<T>>(nullptr);
  }
  template <typename T>
  constexpr auto Ret() const {
    return with<parts::Ret<T>>(nullptr);
  }
  template <typename T>
  constexpr auto Attr(const char* name) const {
    return with<parts::Attr<T>>(name);
  }
  constexpr auto RemainingArgs() const { return with<parts::Rest>(nullptr); }
};

struct Ffi {
  static constexpr Binding<> Bind() { return {}; }
};

inline XLA_FFI_Error* error_of(const XLA_FFI_CallFrame* frame, const char* message) {
  XLA_FFI_Error_Create_Args args{XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, message,
                                 XLA_FFI_Error_Code_INVALID_ARGUMENT};
  return frame->api->XLA_FFI_Error_Create(&args);
}

// What XLA asks of a function when it is registered: whether it was compiled against the same interface.
inline bool tells_of_itself(const XLA_FFI_CallFrame* frame) {
  if (frame->extension_start == nullptr || frame->extension_start->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata* about = reinterpret_cast<XLA_FFI_Metadata_Extension*>(frame->extension_start)->metadata;
  about->api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  about->traits = 0;
  about->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
  return true;
}

template <typename Function, typename... Parts, size_t... I>
XLA_FFI_Error* call(XLA_FFI_CallFrame* frame, Function function, const Binding<Parts...>& binding,
                    std::index_sequence<I...>) {
  if (tells_of_itself(frame)) return nullptr;
  if (frame->stage != XLA_FFI_ExecutionStage_EXECUTE) return error_of(frame, "called at another stage than execution");
  Decoder decoder(frame);
  std::tuple<decltype(Parts::take(decoder, nullptr))...> values{Parts::take(decoder, binding.names[I])...};  // in order
  if (const char* wrong = decoder.wrong()) return error_of(frame, wrong);
  const Error error = function(std::get<I>(values)...);
  return error.message() == nullptr ? nullptr : error_of(frame, error.message());
}

template <typename Function, typename... Parts>
XLA_FFI_Error* call(XLA_FFI_CallFrame* frame, Function function, const Binding<Parts...>& binding) {
  return call(frame, function, binding, std::make_index_sequence<sizeof...(Parts)>());
}

}  // namespace xla::ffi

#define XLA_FFI_DEFINE_HANDLER_SYMBOL(name, function, ...)    \
  extern "C" XLA_FFI_Error* name(XLA_FFI_CallFrame* frame) {  \
    static constexpr auto binding = __VA_ARGS__;              \
    return xla::ffi::call(frame, function, binding);          \
  }                                                           \
  static_assert(true)
