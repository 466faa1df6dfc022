"""Does the policy do its task? Closed-loop episodes in the simulator: in one process, and as robots run it."""
