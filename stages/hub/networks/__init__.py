"""The networks that modules are made of, built into static programs."""
