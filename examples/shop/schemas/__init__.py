"""The shop's contracts."""
