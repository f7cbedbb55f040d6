"""A server that names what is in images: one process, batches of a few compiled sizes, a page, metrics."""
