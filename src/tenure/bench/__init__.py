"""One module per question, each with its baselines and controls in the same run."""
