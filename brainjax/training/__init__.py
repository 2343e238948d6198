"""The jitted step and the loop around it."""
