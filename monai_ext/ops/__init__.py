"""Pure functions on tensors, one mechanism a file, the plain version beside the fast one."""
