"""Readers: files of each format to chunks of rows."""
