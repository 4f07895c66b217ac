// The native half of the twin: what Module's native methods do, on the C++ SDK in ExecuTorch's wheel.
//
// It keeps the AAR's rules: inputs are read where a direct buffer lies, outputs wrap the method's own planned memory,
// methods do not share arenas, and the thread pool is the process's.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>
#include <jni.h>

#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

// Exported by libexecutorch_threadpool, but the wheel carries no header for it: only what is used here is declared.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t thread_count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;

jclass error_class, string_class, tensor_class;
jmethodID new_error, new_tensor, dtype_code, raw_data_buffer;
jfieldID shape_field;

void throw_error(JNIEnv* env, Error code, const std::string& details) {
  jstring text = env->NewStringUTF(details.c_str());
  jobject error = env->NewObject(error_class, new_error, static_cast<jint>(code), text);
  if (error != nullptr) env->Throw(static_cast<jthrowable>(error));
}

std::string text_of(JNIEnv* env, jstring text) {
  const char* bytes = env->GetStringUTFChars(text, nullptr);
  std::string copy = bytes == nullptr ? "" : bytes;
  if (bytes != nullptr) env->ReleaseStringUTFChars(text, bytes);
  return copy;
}

Module& module_of(jlong handle) { return *reinterpret_cast<Module*>(handle); }

// The caller's memory as ExecuTorch's tensor; null with an exception pending.
TensorPtr input_of(JNIEnv* env, jobject tensor) {
  const auto shape = static_cast<jlongArray>(env->GetObjectField(tensor, shape_field));
  const auto type = static_cast<ScalarType>(env->CallIntMethod(tensor, dtype_code));
  jobject buffer = env->CallObjectMethod(tensor, raw_data_buffer);
  if (env->ExceptionCheck()) return nullptr;
  std::vector<jlong> wide(static_cast<size_t>(env->GetArrayLength(shape)));
  env->GetLongArrayRegion(shape, 0, static_cast<jsize>(wide.size()), wide.data());
  std::vector<executorch::aten::SizesType> sizes(wide.begin(), wide.end());
  jlong count = 1;
  for (const jlong size : wide) count *= size;
  if (env->GetDirectBufferCapacity(buffer) != count) {
    throw_error(env, Error::InvalidArgument, "a tensor's shape has not as many elements as its buffer");
    return nullptr;
  }
  TensorPtr made = executorch::extension::from_blob(env->GetDirectBufferAddress(buffer), std::move(sizes), type);
  env->DeleteLocalRef(buffer);
  env->DeleteLocalRef(shape);
  return made;
}

// A Java tensor over the memory where the method left its output.
jobject output_of(JNIEnv* env, const executorch::aten::Tensor& tensor) {
  std::vector<jlong> sizes(tensor.sizes().begin(), tensor.sizes().end());
  jlongArray shape = env->NewLongArray(static_cast<jsize>(sizes.size()));
  if (shape == nullptr) return nullptr;
  env->SetLongArrayRegion(shape, 0, static_cast<jsize>(sizes.size()), sizes.data());
  jobject bytes = env->NewDirectByteBuffer(tensor.mutable_data_ptr(), static_cast<jlong>(tensor.nbytes()));
  if (bytes == nullptr) return nullptr;
  jobject made =
      env->CallStaticObjectMethod(tensor_class, new_tensor, bytes, shape, static_cast<jint>(tensor.scalar_type()));
  env->DeleteLocalRef(bytes);
  env->DeleteLocalRef(shape);
  return made;
}

jlong open(JNIEnv* env, jclass, jstring path, jint load_mode, jint threads) {
  auto module = std::make_unique<Module>(text_of(env, path), static_cast<Module::LoadMode>(load_mode));
  const unsigned count = threads > 0 ? static_cast<unsigned>(threads) : std::thread::hardware_concurrency() / 2;
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (pool != nullptr && count > 0) pool->_unsafe_reset_threadpool(count);
  return reinterpret_cast<jlong>(module.release());
}

void close(JNIEnv*, jclass, jlong handle) { delete &module_of(handle); }

jobjectArray methods(JNIEnv* env, jclass, jlong handle) {
  auto names = module_of(handle).method_names();
  if (!names.ok()) {
    throw_error(env, names.error(), "the program cannot be read");
    return nullptr;
  }
  jobjectArray made = env->NewObjectArray(static_cast<jsize>(names->size()), string_class, nullptr);
  jsize next = 0;
  for (const std::string& name : *names) {
    jstring text = env->NewStringUTF(name.c_str());
    env->SetObjectArrayElement(made, next++, text);
    env->DeleteLocalRef(text);
  }
  return made;
}

jobjectArray execute(JNIEnv* env, jclass, jlong handle, jstring method, jobjectArray tensors) {
  const std::string name = text_of(env, method);
  std::vector<TensorPtr> inputs;
  std::vector<EValue> values;
  for (jsize i = 0; i < env->GetArrayLength(tensors); ++i) {
    jobject tensor = env->GetObjectArrayElement(tensors, i);
    TensorPtr input = input_of(env, tensor);
    if (input == nullptr) return nullptr;
    env->DeleteLocalRef(tensor);
    values.emplace_back(input);
    inputs.push_back(std::move(input));
  }
  auto outputs = module_of(handle).execute(name, values);
  if (!outputs.ok()) {
    throw_error(env, outputs.error(), "Execution failed for method: " + name);
    return nullptr;
  }
  jobjectArray made = env->NewObjectArray(static_cast<jsize>(outputs->size()), tensor_class, nullptr);
  for (size_t i = 0; i < outputs->size() && made != nullptr; ++i) {
    if (!(*outputs)[i].isTensor()) {
      throw_error(env, Error::NotSupported, "an output of method " + name + " is no tensor");
      return nullptr;
    }
    jobject output = output_of(env, (*outputs)[i].toTensor());
    if (output == nullptr) return nullptr;
    env->SetObjectArrayElement(made, static_cast<jsize>(i), output);
    env->DeleteLocalRef(output);
  }
  return made;
}

// What is not an error would fill a test's output.
void print_error(et_timestamp_t, et_pal_log_level_t level, const char* file, const char*, size_t line,
                 const char* message, size_t) {
  if (level != et_pal_log_level_t::kError && level != et_pal_log_level_t::kFatal) return;
  std::fprintf(stderr, "executorch: %s (%s:%zu)\n", message, file, line);
}

jclass find_class(JNIEnv* env, const char* name) {
  return static_cast<jclass>(env->NewGlobalRef(env->FindClass(name)));
}

}  // namespace

extern "C" JNIEXPORT jint JNI_OnLoad(JavaVM* vm, void*) {
  JNIEnv* env = nullptr;
  if (vm->GetEnv(reinterpret_cast<void**>(&env), JNI_VERSION_1_8) != JNI_OK) return JNI_ERR;
  executorch::runtime::runtime_init();
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(print_error, __FILE__));
  error_class = find_class(env, "org/pytorch/executorch/ExecutorchRuntimeException");
  string_class = find_class(env, "java/lang/String");
  tensor_class = find_class(env, "org/pytorch/executorch/Tensor");
  jclass module_class = env->FindClass("org/pytorch/executorch/Module");
  if (env->ExceptionCheck()) return JNI_ERR;
  new_error = env->GetMethodID(error_class, "<init>", "(ILjava/lang/String;)V");
  new_tensor = env->GetStaticMethodID(tensor_class, "nativeNewTensor",
                                      "(Ljava/nio/ByteBuffer;[JI)Lorg/pytorch/executorch/Tensor;");
  dtype_code = env->GetMethodID(tensor_class, "dtypeJniCode", "()I");
  raw_data_buffer = env->GetMethodID(tensor_class, "getRawDataBuffer", "()Ljava/nio/Buffer;");
  shape_field = env->GetFieldID(tensor_class, "shape", "[J");
  const JNINativeMethod natives[] = {
      {const_cast<char*>("open"), const_cast<char*>("(Ljava/lang/String;II)J"), reinterpret_cast<void*>(open)},
      {const_cast<char*>("close"), const_cast<char*>("(J)V"), reinterpret_cast<void*>(close)},
      {const_cast<char*>("methods"), const_cast<char*>("(J)[Ljava/lang/String;"), reinterpret_cast<void*>(methods)},
      {const_cast<char*>("execute"),
       const_cast<char*>("(JLjava/lang/String;[Lorg/pytorch/executorch/Tensor;)[Lorg/pytorch/executorch/Tensor;"),
       reinterpret_cast<void*>(execute)},
  };
  if (env->ExceptionCheck() || env->RegisterNatives(module_class, natives, 4) != JNI_OK) return JNI_ERR;
  return JNI_VERSION_1_8;
}
