"""One Keras network through tf2onnx in NHWC: ``python keras_pair.py FOLDER``, given TensorFlow and tf2onnx.

Writes ``keras.onnx``, and the weights to ``keras.npz``, from which ``port_pair.py`` builds the same network in torch.
"""

# mypy: ignore-errors
# The framework is not there where types are checked.

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf2onnx


def network() -> tf.keras.Model:
    """Convolutions, a depthwise one, batch normalisation, a flattened dense layer."""
    layers = tf.keras.layers
    image = layers.Input((16, 16, 3), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", name="first")(image)
    x = layers.BatchNormalization(name="norm1", epsilon=1e-3)(x)
    x = layers.ReLU()(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depth")(x)
    x = layers.BatchNormalization(name="norm2", epsilon=1e-3)(x)
    x = layers.ReLU(max_value=6)(x)
    y = layers.Conv2D(16, 1, name="point")(x)
    x = layers.Add()([x, y])
    x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(32, activation="relu", name="hidden")(x)
    return tf.keras.Model(image, layers.Dense(10, name="scores")(x))


def main(folder: Path) -> None:
    """Write the network and its weights."""
    tf.keras.utils.set_random_seed(0)
    model = network()
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            size = layer.get_weights()[0].size
            draws = rng.uniform(0.5, 1.5, size), rng.normal(size=size), rng.normal(size=size), rng.uniform(0.5, 2, size)
            layer.set_weights(draws)
    spec = (tf.TensorSpec((None, 16, 16, 3), tf.float32, name="image"),)
    function = tf.function(lambda image: model(image, training=False), input_signature=spec)
    tf2onnx.convert.from_function(function, input_signature=spec, opset=15, output_path=str(folder / "keras.onnx"))
    held = {f"{layer.name}.{n}": w for layer in model.layers for n, w in enumerate(layer.get_weights())}
    np.savez(folder / "keras.npz", **held)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
