"""Rows from their files into the store: read, held to contracts, split, checked, profiled and reported."""
