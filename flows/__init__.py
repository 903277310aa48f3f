"""The flows: what is deployed. Compositions of stages, nothing else."""
