"""What a trained classifier becomes when its last layer is told of the long tail.

Both change no feature, so that they take no training. Both scale or shift logits, and
an attack by gradients can be misled by that: look at AutoAttack too.
"""

import keras
import numpy as np

from keras_robustlt import checks
from keras_robustlt.attacks.arguments import check_output
from keras_robustlt.networks.conversion import copied, is_default

__all__ = ["logit_adjusted", "tau_normalized"]


def logit_adjusted(network, class_counts, tau=1.0):
    """Returns the network with logits that suit balanced data, `z - tau log(P)`.

    `P` are the shares of the classes in the training images. It is meant for networks
    trained with the plain cross-entropy: what is trained with a class prior, as by
    `method="at_bsl"`, has this in it already.

    Args:
        network: Functional or (built) sequential `keras.Model` that gives logits. It
            stays as it is.
        class_counts: Integers of shape `(num_classes,)`: training images of each
            class.
        tau: Float, not negative. Strength; `0` changes nothing. Defaults to `1`.

    Returns:
        A `keras.Model` with weights of its own and a layer of Keras's more.

    Raises:
        ValueError: If `network` is neither functional nor sequential, gives
            probabilities, is of another number of classes, or has several outputs or a
            layer that cannot be copied.

    Example:

    >>> adjusted = krl.networks.logit_adjusted(model.network, class_counts)
    >>> results = krl.evaluate(adjusted, test, epsilon=8 / 255)

    Reference:
        Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021, equation 9.
    """
    counts = checks.class_counts(class_counts)
    tau = checks.in_range("tau", tau, 0, np.inf)
    copy = _copy(network)
    outputs = copy.outputs[0]
    if outputs.shape[-1] != len(counts):
        raise ValueError(
            f"`class_counts` must have a number for each of the {outputs.shape[-1]} "
            f"outputs of the network. Received: {len(counts)}"
        )
    prior = tau * np.log(counts / counts.sum())
    # It subtracts its "mean", and loads wherever Keras is installed.
    shift = keras.layers.Normalization(
        mean=prior.tolist(),
        variance=[1.0] * len(counts),
        dtype="float32",
        # Keras's own name for it may be that of a layer of the network.
        name=f"{network.name}_prior",
    )
    name = f"{network.name}_logit_adjusted"
    inputs = copy.inputs[0] if len(copy.inputs) == 1 else copy.inputs
    return keras.Model(inputs, shift(outputs), name=name)


def tau_normalized(network, tau=1.0):
    """Returns the network with class vectors of more equal length, `w_c / |w_c|^tau`.

    Trained on long-tailed data, the last layer has long vectors for frequent classes
    and short ones for rare classes, and prefers the former. Its biases, which do so
    too, become zero.

    Args:
        network: Functional or (built) sequential `keras.Model` that gives logits,
            whose last layer with weights is a `keras.layers.Dense`. It stays as it is.
        tau: Float in `[0, 1]`. `1` makes all lengths equal; with `0` only the biases
            go. Defaults to `1`.

    Returns:
        A `keras.Model` of the same layers, with weights of its own.

    Raises:
        ValueError: If `network` is neither functional nor sequential, gives
            probabilities, ends in another layer or one that is quantized, or has
            several outputs or a layer that cannot be copied.

    Example:

    >>> balanced = krl.networks.tau_normalized(model.network, tau=0.7)
    >>> results = krl.evaluate(balanced, test, epsilon=8 / 255)

    Reference:
        Kang et al., "Decoupling Representation and Classifier for Long-Tailed
        Recognition", ICLR 2020, equation 4.
    """
    tau = checks.in_range("tau", tau, 0, 1)
    copy = _copy(network)
    last = copy
    while isinstance(last, keras.Model):
        last = _last_with_weights(last)
    if not isinstance(last, keras.layers.Dense):
        raise ValueError(
            "`network` must have a keras.layers.Dense as its last layer with weights; "
            "cosine classifiers have class vectors of one length already. Received: "
            f"layer {last.name} of type {type(last).__name__}"
        )
    variable = last.kernel
    if not isinstance(variable, keras.Variable) or "float" not in variable.dtype:
        raise ValueError(
            "`network` must have a last layer whose weights are one matrix of floats: "
            "normalize it before `quantize` and `enable_lora`. Received: layer "
            f"{last.name} of the policy {last.dtype_policy.name}, with "
            f"{len(last.weights)} weights"
        )
    kernel = keras.ops.convert_to_numpy(variable).astype("float32")
    lengths = np.maximum(np.linalg.norm(kernel, axis=0), 1e-12)
    variable.assign(kernel / lengths**tau)
    if last.use_bias:
        last.bias.assign(np.zeros(kernel.shape[1], "float32"))
    return copy


def _last_with_weights(network):
    """The layer with weights that the logits come from, where it is a single one."""
    operations = getattr(network, "operations", network.layers)
    for operation in reversed(operations):
        # Beyond a sum, a layer would be one of several that make the logits.
        several = not isinstance(operation, keras.layers.InputLayer) and isinstance(
            operation.input, (list, tuple, dict)
        )
        if getattr(operation, "weights", None) or several:
            return operation
    return operations[0]


def _copy(network):
    checks.classifier_alone("network", network)
    functional = isinstance(network, keras.Model) and hasattr(network, "operations")
    if not functional and not (isinstance(network, keras.Sequential) and network.built):
        raise ValueError(
            "`network` must be a functional or (built) sequential keras.Model. "
            f"Received: network of type {type(network).__name__}"
        )
    if len(network.outputs) > 1:
        raise ValueError(
            "`network` must give one tensor of logits. Received: "
            f"output_shape={network.output_shape}"
        )
    checks.logits_not_probabilities(network)
    # A class with a configuration of its own is copied by that.
    clone_function = copied if is_default(network) else None
    copy = keras.models.clone_model(network, clone_function=clone_function)
    copy.set_weights(network.get_weights())
    check_output(keras.Model(copy.inputs, copy.outputs[0]))  # which may have a name
    return copy
