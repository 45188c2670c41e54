"""Real training steps that leave no trace: the only rooms that touch Lightning's private parts."""
