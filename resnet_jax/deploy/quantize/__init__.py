"""Networks in 8 bits: calibrated after training or trained for it, written as ONNX, measured in the runtime."""
