"""Which rows should live on the device: scorers, selectors, schedule."""
