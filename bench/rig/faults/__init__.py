"""The kinds of faults of `bench/faults`. Each takes the bench, the row to fill and the number of
runs."""
