"""Deployment: the gate's rules, the deployed pointer, the state of nightly runs."""
