"""What a step costs, what devices send each other, and compiling for slices that are not there."""
