"""The process and the machine: cache directory, allocator, files, paths. Independent of networks."""
