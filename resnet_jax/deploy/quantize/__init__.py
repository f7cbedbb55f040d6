"""8-bit networks: calibrated after training or trained with quantization, written as ONNX, measured in the runtime."""
