"""An HTTP server for image predictions: one process, batches of a few compiled sizes, a web page, metrics."""
