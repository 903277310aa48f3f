"""What hubflow needs of Prefect beside stages and flows: task wrappers, artifacts, progress, blocks."""
