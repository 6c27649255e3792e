"""What a `RobustLTModel` is made and compiled with, looked at before there is a step.

`fit_arguments` does the same for what it is trained with.
"""

import warnings

import keras
import numpy as np

from keras_robustlt import budget as budgets
from keras_robustlt import checks, configurable
from keras_robustlt.attacks.arguments import (
    check_is_perturb,
    check_no_loss,
    check_no_smaller_ball,
    check_one_run,
    check_stays_within,
)
from keras_robustlt.attacks.base import Attack, trait
from keras_robustlt.data import layers
from keras_robustlt.data.augmentation import (
    AUGMENTATIONS,
    KERAS_CV,
    TRIED,
    on_device,
)
from keras_robustlt.methods.base import layers_of

# What the loss of a method may look at.
INPUTS = ("adversarial", "clean")


def check_attack(argument, attack, epsilon, training):
    """Raises if an attack cannot run inside a step, or is not within the model's ball.

    Args:
        argument: `"attack"`, with which training steps are made, or
            `"evaluation_attack"`.
        attack: What is to be one.
        epsilon: Float, the base budget of the model.
        training: The training attack, in whose norm it is meant.
    """
    needed = ("starting_point", "perturb") if argument == "attack" else ("__call__",)
    if not callable(attack) or not hasattr(attack, "epsilon"):
        raise ValueError(
            f"`{argument}` must be an attack, such as krl.attacks.PGD(epsilon, "
            f"steps=10). Received: {argument}={attack!r}"
        )
    if not trait(attack, "runs_compiled") or not all(
        hasattr(attack, name) for name in needed
    ):
        raise ValueError(
            f"`{argument}` runs inside a compiled step, which {type(attack).__name__} "
            f"cannot. Use PGD, FGSM or an attack with {' and '.join(needed)} as PGD "
            "has them, and `keras_robustlt.evaluate(model, x, y, attacks=...)` for "
            f"others. Received: {argument}={attack!r}"
        )
    if argument == "attack":
        check_one_run(argument, attack)
        check_no_loss(argument, attack)
        check_is_perturb(argument, attack)
    else:
        check_stays_within(argument, attack)
    own = checks.in_range(f"{argument}.epsilon", attack.epsilon, 0, np.inf)
    if not np.isclose(own, epsilon):
        raise ValueError(
            f"`{argument}` must have the epsilon of the model. Received: "
            f"epsilon={epsilon} and {argument}.epsilon={attack.epsilon}"
        )
    check_no_smaller_ball(argument, attack, training)


def buildable(model):
    """What a model is made of that may keep a state, each with its argument.

    Args:
        model: A `RobustLTModel` that has its parts, built or not.
    """
    parts = [(name, getattr(model, name)) for name in ("attack", "budget", "averaging")]
    parts += [("method", method) for method in layers_of(model.method)]
    return [pair for pair in parts if isinstance(pair[1], configurable.Configurable)]


def check_no_state(argument, attack, built):
    """Raises if `attack` has variables that it would have to make in a model.

    Args:
        argument: String, what the attack is called.
        attack: The attack.
        built: The attack that the model was made with, which has made them.
    """
    build = getattr(type(attack), "build", Attack.build)
    if attack is not built and build is not Attack.build:
        raise ValueError(
            f"`{argument}` has a state, which {type(attack).__name__} makes when a "
            "model is made with it: RobustLTModel(network, ..., attack=...). "
            f"Received: {argument}={attack!r}"
        )


def budget(rule, method, attack, **of_robustlt):
    """The rule for the budgets.

    Args:
        rule: The `budget` of the model, or `None`.
        method: A `Method`.
        attack: The `attack` of the model as it is given, or `None`.
        **of_robustlt: The arguments of `budget.RobustLT`, where they are given, and
            `None` for the others.

    Returns:
        A `Budget`, which is uniform where nothing is attacked.
    """
    given = {name: value for name, value in of_robustlt.items() if value is not None}
    if "adversarial" not in method.inputs:
        _warn_of_no_attack(rule, method, attack, given)
        return budgets.get("uniform")
    if rule is None:
        return budgets.RobustLT(**given)
    if given:
        raise ValueError(
            f"{_named(given)} belong{'s' * (len(given) == 1)} to the budget of "
            "RobustLT, and `budget` takes its place. Give a rule its own arguments, "
            "such as budget=krl.budget.CFA(base=0.5), or leave `budget` out. "
            f"Received: budget={rule!r}, {given}"
        )
    return budgets.get(rule)


def _warn_of_no_attack(rule, method, attack, given):
    """Warns if there is more said of attacks than the norm in which to evaluate."""
    given = {name: value for name, value in given.items() if value}  # 0 is true of it
    if rule is not None and type(budgets.get(rule)) is not budgets.Budget:
        given = {"budget": rule, **given}
    if isinstance(attack, str):
        given = {"attack": attack, **given}
    if given:
        warnings.warn(
            f"{_named(given)} will do nothing: method={method} trains on clean images "
            f"alone, without an attack. Received: {given}",
            stacklevel=5,
        )


def _named(arguments):
    return " and ".join(f"`{name}`" for name in arguments)


def check_inputs(method):
    """Raises if the `inputs` of a `Method` name no images."""
    named = isinstance(method.inputs, (tuple, list)) and len(method.inputs)
    if not named or not all(each in INPUTS for each in method.inputs):
        raise ValueError(
            f"`inputs` of {method} must be a tuple of the images that its loss looks "
            f"at, of {', '.join(map(repr, INPUTS))}. Received: inputs={method.inputs!r}"
        )


def check_parts(attack, attack_steps, budget, method):
    """Raises if parts of a model do not go together.

    Args:
        attack: The training attack.
        attack_steps: `"full"` or `"adaptive"`.
        budget: A `Budget`.
        method: A `Method`.
    """
    if attack_steps == "adaptive" and getattr(attack, "steps", 0) <= 2:
        raise ValueError(
            "`attack_steps='adaptive'` makes fewer steps, but at least 2: `attack` "
            f"must have more. Received: attack={attack!r}"
        )
    if attack_steps == "adaptive" and not budget.grows:
        raise ValueError(
            "`attack_steps='adaptive'` makes fewer steps while the budget grows, "
            "and this one has all of it from the start: leave `attack_steps` out, "
            f"or set `beta` above 0. Received: budget={budget!r}"
        )
    if budget.weighs_classes and method.loss_of_batch:
        raise ValueError(
            "`budget` weighs the losses of examples, and `method` has a loss that "
            f"is not a mean over examples. Received: budget={budget!r}, "
            f"method={method!r}"
        )


def augmenter(augmentation, network, num_classes):
    """A layer or a function for the step, `None` for what draws decide."""
    layer = layers.get(augmentation) if callable(augmentation) else None
    name = augmentation if isinstance(augmentation, str) else ""
    if name.rpartition("+")[2] in KERAS_CV or (layer and layer.of_keras_cv):
        raise ValueError(
            "Layers of keras-cv run in pipelines, not inside the step: pass "
            f"`augmentation` to keras_robustlt.data.pipeline(x, y, batch_size, "
            f"augmentation=...). Received: augmentation={augmentation!r}"
        )
    shape = getattr(network, "input_shape", None)
    is_known = network.built and isinstance(shape, tuple) and None not in shape[1:]
    if layer is None:
        checks.one_of("augmentation", augmentation, tuple(AUGMENTATIONS))
        if is_known and augmentation != "none":
            on_device(augmentation, shape[1:])  # whether it suits them
        return None
    if is_known:
        noise = np.random.default_rng(0).random((TRIED, *shape[1:]), "float32")
        layer.try_on(noise, np.arange(TRIED) % num_classes, num_classes)
    return layer


def derived_seed(seed, purpose):
    """Another seed from `seed`; `None`, by which Keras draws one, stays."""
    if seed is None:
        return None
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1)[0] >> 1)


def check_compile(arguments):
    """Raises if switches of `keras.Model.compile` are none, or would do nothing."""
    for name in ("run_eagerly", "auto_scale_loss"):
        if arguments.get(name) is not None:
            checks.boolean(name, arguments[name])
    if "steps_per_execution" in arguments:
        checks.positive_integer("steps_per_execution", arguments["steps_per_execution"])
    compiled = arguments.get("jit_compile", "auto")
    if compiled is not None and not (isinstance(compiled, str) and compiled == "auto"):
        checks.boolean("jit_compile", compiled)
    if arguments.get("loss_weights") is not None:
        raise ValueError(
            "`loss_weights` is for models of several outputs: leave it out. Received: "
            f"loss_weights={arguments['loss_weights']!r}"
        )


def optimizer_for(network, method, optimizer, scales=True):
    """The optimizer, with its loss scaled where the network computes in float16.

    Args:
        network: A `keras.Model`.
        method: A `Method`.
        optimizer: As `keras.Model.compile` takes it.
        scales: Boolean, `auto_scale_loss` of `compile`. Defaults to `True`.

    Returns:
        A `keras.Optimizer`.
    """
    if optimizer is None:
        raise ValueError(
            "`optimizer` must be a keras.optimizers.Optimizer or the name of one. "
            "Received: optimizer=None"
        )
    optimizer = keras.optimizers.get(optimizer)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if method.moves_weights and inner.use_ema:
        raise ValueError(
            "`use_ema` of the optimizer averages the weights as they are when it "
            f"updates them, and {method} has moved them then. Leave it out and "
            "average with RobustLTModel(averaging=...). Received: use_ema=True"
        )
    policies = {layer.compute_dtype for layer in network._flatten_layers()}
    # Keras asks the dtype policy of the model, which is float32 here.
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if "float16" in policies and scales and not scaled:
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
