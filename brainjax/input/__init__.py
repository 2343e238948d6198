"""Record to device: the batch plan, packing, and reading ahead."""
