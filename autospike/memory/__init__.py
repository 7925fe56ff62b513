"""Cache, memory-mapped tensors, and settings of the allocator."""
