"""The settings of the recipes, as data. A flag of the same name overrides each.

Learning-rate milestones are shares of the epochs, after which the rate is a tenth.
The paper's settings are those of its released configurations (CVPR 2026).
"""

COMMON = dict(
    method="at_bsl",
    alpha=0.3,
    beta=0.8,
    granularity="epoch",
    weighting="perturbation",
    batchnorm_statistics="adversarial",
    imbalance_ratio=50.0,
    imbalance_type="exp",
    largest_class=None,
    balanced_sampling=False,
    validation_fraction=0.0,
    epsilon=8 / 255,
    attack_steps=10,
    learning_rate=0.1,
    milestones=(0.75, 0.9),
    momentum=0.9,
    weight_decay=5e-4,
    precision="float32",
    attacks=("clean", "pgd20", "cw20"),
    test_examples=None,
)

CIFAR10LT = {
    # The paper's: some hours on a large GPU.
    "paper": dict(
        COMMON, model="wrn-28-10", augmentation="aua", epochs=100, batch_size=128
    ),
    # A quarter of the paper's cost.
    "resnet18": dict(
        COMMON, model="resnet18", augmentation="aua", epochs=100, batch_size=128
    ),
    # Half an hour to an hour on two CPU cores: enough to see what the method does.
    "cpu": dict(
        COMMON,
        model="wrn-10-1",
        augmentation="base",
        epochs=8,
        batch_size=64,
        test_examples=2000,
    ),
    # Two minutes on two CPU cores: whether everything runs, nothing more.
    "smoke": dict(
        COMMON,
        model="wrn-10-1",
        augmentation="base",
        largest_class=500,
        epochs=4,
        batch_size=64,
        attacks=("clean", "pgd20"),
        test_examples=500,
    ),
}

DIGITSLT = {
    # Eight-by-eight digits at a constant rate: half a minute to a minute a run.
    "default": dict(
        COMMON,
        model="small_resnet",
        method="at",
        epsilon=0.1,
        augmentation="none",
        epochs=40,
        batch_size=32,
        milestones=(),
        attacks=("clean", "pgd20"),
    ),
}
