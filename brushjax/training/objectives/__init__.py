"""What can be trained: the contract of an objective, and one file for each paper's loss."""
