"""Other implementations, run beside this one."""
