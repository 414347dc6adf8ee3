"""What the benchmarks share: processes and what they cost, the disk, the systems under test, the
generator and the receiving host. Standard library only."""
