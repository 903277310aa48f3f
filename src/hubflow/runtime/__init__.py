"""The process: Paddle imported at first use, cores, memory, threads."""
