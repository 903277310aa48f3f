"""The store: artifact folders found by content, here and on object storage."""
