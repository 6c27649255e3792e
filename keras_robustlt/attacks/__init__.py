"""Attacks: what an adversary does to an image within a budget."""

from keras_robustlt.attacks.apgd import APGD, APGDT
from keras_robustlt.attacks.autoattack import AutoAttack
from keras_robustlt.attacks.fab import FAB
from keras_robustlt.attacks.pgd import FGSM, PGD
from keras_robustlt.attacks.square import Square

__all__ = ["APGD", "APGDT", "FAB", "FGSM", "PGD", "AutoAttack", "Square"]
