"""Write networks as ONNX graphs from their configuration: one file per concept, and :func:`.network.write_network`."""
