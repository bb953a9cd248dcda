"""Training: targets, losses, sampling, augmentation, and the loop around them. No live path imports this."""
