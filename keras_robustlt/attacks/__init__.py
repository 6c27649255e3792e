"""Attacks: what an adversary does to an image within a budget."""

from keras_robustlt.attacks.pgd import FGSM, PGD

__all__ = ["FGSM", "PGD"]
