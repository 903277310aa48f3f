"""The shop's flows."""
