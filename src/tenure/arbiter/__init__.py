"""What happens when it does not fit: the inequality, the actions, the decision. Pure functions, no tensors."""
