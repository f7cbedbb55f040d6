"""Networks written as ONNX graphs from their configuration: a file a concept, and :func:`.network.write_network`."""
