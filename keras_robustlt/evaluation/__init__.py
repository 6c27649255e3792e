"""How robust a classifier is: attacks, accuracies, curves and signs of trouble."""
