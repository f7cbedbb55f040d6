"""The process and the machine: cache directory, allocator, files, paths. Knows nothing of networks."""
