"""Write what exporters of other frameworks make: ``python -m models.architectures.others keras [NAME-glob ...]``.

The families are ``keras``, ``sklearn``, ``jax`` and ``paddle``; each is best made in an environment of its own. All
need onnxruntime and, because structures are stored by `export.py`, torch; besides,

- keras: tensorflow-cpu 2.15 and tf2onnx 1.16.1, with numpy below 2 and Python 3.11 at most,
- sklearn: scikit-learn and skl2onnx,
- jax: jax, flax and jax2onnx,
- paddle: paddlepaddle and paddle2onnx.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import torch

from models.architectures import STRUCTURES, SUFFIX, Array, Entry
from models.architectures.build import Case
from models.architectures.export import ALIKE, SEED, RefusedError, clean, describe, quiet, store


class Network(NamedTuple):
    """A network of any framework.

    Args:
        module: what the framework calls a network or model.
        inputs: example inputs by name, in the order in which the network takes them, with a batch of two.
    """

    module: Any
    inputs: dict[str, Array]


class Exported(NamedTuple):
    """What an exporter wrote, and what the network itself answers to the same inputs."""

    model: onnx.ModelProto
    wanted: list[Array]


class Family(NamedTuple):
    """The networks of a framework.

    Args:
        exporter: the package that exports them.
        variants: operator sets and batches to export for.
        networks: what builds each, by name.
        export: writes one for an operator set; the batch is open if the last argument is true.
    """

    exporter: str
    variants: tuple[tuple[int, str], ...]
    networks: dict[str, Callable[[], Network]]
    export: Callable[[Network, int, bool], Exported]


def library(name: str) -> Any:
    """A module, loaded when asked for: no environment has all."""
    return importlib.import_module(name)


def noise(*shape: int) -> Array:
    """A normal distribution."""
    return np.random.default_rng(SEED).standard_normal(shape).astype(np.float32)


def indices(high: int, *shape: int) -> Array:
    """Whole numbers from 0 to ``high`` - 1, both of which are in the first of the batch."""
    found = np.random.default_rng(SEED).integers(0, high, shape).astype(np.int32)
    found[0, 0], found[0, -1] = 0, high - 1
    return found


def statistics(name: str, values: Array, generator: np.random.Generator) -> Array:
    """What a parameter of that name is after training, roughly; a constant would hide what a wrong cut does."""
    if name in ("gamma", "scale", "moving_variance", "variance", "var"):
        return np.asarray(generator.random(values.shape) + 0.5, values.dtype)
    if name in ("beta", "bias", "moving_mean", "mean"):
        return np.asarray(generator.standard_normal(values.shape) * 0.2, values.dtype)
    if name == "depthwise_kernel":  # Keras starts it as if each channel saw all channels
        return np.asarray(generator.standard_normal(values.shape) / 3, values.dtype)
    return values


# Keras


def keras_resnet() -> Network:
    """ResNet with bottlenecks."""
    resnet = library("keras.src.applications.resnet")

    def stages(x: Any) -> Any:
        for number, width in enumerate((16, 24, 32)):
            x = resnet.stack1(x, width, 2, stride1=1 if number == 0 else 2, name=f"conv{number + 2}")
        return x

    return _picture(resnet.ResNet(stages, False, True, weights=None, input_shape=(32, 32, 3), classes=10))


def keras_mobilenet_v2() -> Network:
    """MobileNetV2 at a third of its width."""
    module = library("keras.src.applications.mobilenet_v2")
    return _picture(module.MobileNetV2(input_shape=(32, 32, 3), alpha=0.35, weights=None, classes=10))


def keras_mobilenet_v3() -> Network:
    """MobileNetV3: squeeze and excitation, hard swish."""
    module = library("keras.src.applications.mobilenet_v3")
    return _picture(module.MobileNetV3Small((32, 32, 3), 0.35, weights=None, classes=10, include_preprocessing=False))


def keras_densenet() -> Network:
    """DenseNet with few layers."""
    module = library("keras.src.applications.densenet")
    return _picture(module.DenseNet([2, 3, 2, 2], weights=None, input_shape=(32, 32, 3), classes=10))


def keras_efficientnet() -> Network:
    """EfficientNet, narrower than B0."""
    module = library("keras.src.applications.efficientnet")
    return _picture(module.EfficientNet(0.25, 0.4, 32, weights=None, input_shape=(32, 32, 3), classes=10))


def keras_unet() -> Network:
    """U-Net that goes up once by a transposed convolution and once by interpolation."""
    layers, keras = library("keras.layers"), library("keras")

    def double(x: Any, width: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        return x

    x = image = keras.Input((32, 32, 3))
    seen = []
    for width in (16, 24):
        seen.append(double(x, width))
        x = layers.MaxPooling2D()(seen[-1])
    x = double(x, 32)
    x = layers.Conv2DTranspose(24, 2, strides=2)(x)
    x = double(layers.Concatenate()([x, seen[1]]), 24)
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    x = double(layers.Concatenate()([x, seen[0]]), 16)
    return _picture(keras.Model(image, layers.Conv2D(4, 1)(x)))


def keras_bilstm() -> Network:
    """Two bidirectional layers of long short-term memory on embedded words."""
    layers = library("keras.layers")
    return _words(
        [layers.Bidirectional(layers.LSTM(n, return_sequences=more)) for n, more in ((32, True), (24, False))]
    )


def keras_bigru() -> Network:
    """Two bidirectional layers of gated recurrent units on embedded words."""
    layers = library("keras.layers")
    return _words([layers.Bidirectional(layers.GRU(n, return_sequences=more)) for n, more in ((32, True), (24, False))])


def keras_transformer() -> Network:
    """Two encoder blocks, one that normalises last and one that normalises first."""
    layers, keras, tf = library("keras.layers"), library("keras"), library("tensorflow")
    words = keras.Input((12,), dtype="int32")
    x = layers.Embedding(100, 32)(words) + layers.Embedding(12, 32)(tf.range(12))
    for first in (False, True):
        y = layers.LayerNormalization()(x) if first else x
        x = layers.Add()([x, layers.MultiHeadAttention(4, 8)(y, y)])
        y = x = x if first else layers.LayerNormalization()(x)
        y = layers.LayerNormalization()(y) if first else y
        y = layers.Dense(32)(layers.Dense(64, activation="gelu")(y))
        x = layers.Add()([x, y])
        x = x if first else layers.LayerNormalization()(x)
    answer = layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling1D()(x))
    return Network(keras.Model(words, answer), {"words": indices(100, 2, 12)})


def keras_mlp() -> Network:
    """Numbers and embedded categories side by side, then dense layers."""
    layers, keras = library("keras.layers"), library("keras")
    numbers, kinds = keras.Input((13,)), keras.Input((4,), dtype="int32")
    x = layers.Concatenate()([numbers, layers.Flatten()(layers.Embedding(50, 8)(kinds))])
    for width in (64, 32):
        x = layers.Dense(width, use_bias=width == 64)(x)
        x = layers.Dropout(0.1)(layers.Activation("relu")(layers.BatchNormalization()(x)))
    inputs = {"numbers": noise(2, 13), "kinds": indices(50, 2, 4)}
    return Network(keras.Model([numbers, kinds], layers.Dense(1, activation="sigmoid")(x)), inputs)


def _picture(module: Any) -> Network:
    return Network(module, {"image": noise(2, 32, 32, 3)})


def _words(between: list[Any]) -> Network:
    layers, keras = library("keras.layers"), library("keras")
    module = keras.Sequential([keras.Input((12,), dtype="int32"), layers.Embedding(100, 16), *between, layers.Dense(5)])
    return Network(module, {"words": indices(100, 2, 12)})


def _export_keras(network: Network, opset: int, batched: bool) -> Exported:
    tf, generator = library("tensorflow"), np.random.default_rng(SEED)
    for weight in network.module.weights:
        name = weight.name.split("/")[-1].split(":")[0]
        weight.assign(statistics(name, weight.numpy(), generator))
    shapes = {name: ((None, *array.shape[1:]) if batched else array.shape) for name, array in network.inputs.items()}
    signature = [tf.TensorSpec(shapes[name], array.dtype, name) for name, array in network.inputs.items()]
    convert = library("tf2onnx.convert").from_keras
    model, _ = convert(network.module, input_signature=signature, opset=opset)
    arrays = list(network.inputs.values())
    return Exported(model, [network.module(arrays if len(arrays) > 1 else arrays[0]).numpy()])


# scikit-learn


def sklearn_mlp() -> Network:
    """A classifier of two hidden layers behind a scaler."""
    perceptron = library("sklearn.neural_network").MLPClassifier(
        hidden_layer_sizes=(48, 32), max_iter=40, random_state=SEED
    )
    return _fitted(library("sklearn.preprocessing").StandardScaler(), perceptron)


def sklearn_logistic() -> Network:
    """Logistic regression behind a scaler."""
    return _fitted(
        library("sklearn.preprocessing").StandardScaler(), library("sklearn.linear_model").LogisticRegression()
    )


def sklearn_boosting() -> Network:
    """Boosted trees."""
    return _fitted(library("sklearn.ensemble").GradientBoostingClassifier(n_estimators=8, random_state=SEED))


def sklearn_pca_mlp() -> Network:
    """A regression by a perceptron behind principal components."""
    perceptron = library("sklearn.neural_network").MLPRegressor(
        hidden_layer_sizes=(32, 24), activation="tanh", random_state=SEED
    )
    x = noise(400, 20)
    pipeline = library("sklearn.pipeline").make_pipeline(library("sklearn.decomposition").PCA(12), perceptron)
    return Network(pipeline.fit(x, np.sin(x[:, 0]) + x[:, 1] * x[:, 2]), {"input": x[:2]})


def _fitted(*steps: Any) -> Network:
    x = noise(400, 20) * 2 + 1
    y = np.digitize(x[:, 0] * x[:, 1] - x[:, 2], (-1, 1))
    return Network(library("sklearn.pipeline").make_pipeline(*steps).fit(x, y), {"input": x[:2]})


def _export_sklearn(network: Network, opset: int, batched: bool) -> Exported:
    module, x = network.module, network.inputs["input"]
    kind = library("skl2onnx.common.data_types").FloatTensorType([None if batched else len(x), x.shape[1]])
    classifies = hasattr(module, "predict_proba")
    model = library("skl2onnx").convert_sklearn(
        module,
        initial_types=[("input", kind)],
        target_opset={"": opset, "ai.onnx.ml": 3},
        options={id(module): {"zipmap": False}} if classifies else None,
    )
    return Exported(model, [module.predict(x), module.predict_proba(x)] if classifies else [module.predict(x)[:, None]])


# JAX


def jax_mlp() -> Network:
    """Dense layers with layer normalisation."""
    nnx = library("flax.nnx")

    def build() -> Any:
        rngs = nnx.Rngs(SEED)
        layers = [nnx.Linear(16, 64, rngs=rngs), nnx.LayerNorm(64, rngs=rngs), nnx.relu]
        layers += [nnx.Linear(64, 32, rngs=rngs), nnx.gelu, nnx.Linear(32, 5, rngs=rngs)]
        return nnx.Sequential(*layers)

    return Network(nnx.eval_shape(build), {"input": noise(2, 16)})


def jax_cnn() -> Network:
    """Convolutions with batch normalisation and a shortcut."""
    nnx = library("flax.nnx")

    def unit(inputs: int, outputs: int) -> Any:
        rngs = nnx.Rngs(SEED)
        return nnx.Sequential(
            nnx.Conv(inputs, outputs, (3, 3), use_bias=False, rngs=rngs), nnx.BatchNorm(outputs, rngs=rngs), nnx.relu
        )

    class Residual(nnx.Module):  # type: ignore[misc, name-defined]
        """A stem, two units with a shortcut, and a head."""

        def __init__(self) -> None:
            self.stem, self.first, self.second = unit(3, 16), unit(16, 24), unit(24, 16)
            self.last, self.head = unit(16, 32), nnx.Linear(32 * 4 * 4, 10, rngs=nnx.Rngs(SEED))

        def __call__(self, x: Any) -> Any:
            x = nnx.max_pool(self.stem(x), window_shape=(2, 2), strides=(2, 2))
            x = self.last(x + self.second(self.first(x)))
            x = nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
            return self.head(x.reshape(x.shape[0], -1))

    return Network(nnx.eval_shape(Residual), {"image": noise(2, 16, 16, 3)})


def jax_transformer() -> Network:
    """Two encoder blocks that normalise first."""
    return _encoder(lambda block: block)


def jax_transformer_functions() -> Network:
    """Two encoder blocks that normalise first, each a function of the model."""
    return _encoder(library("jax2onnx").onnx_function)


def _encoder(decorate: Callable[[Any], Any]) -> Network:
    nnx = library("flax.nnx")

    class Block(nnx.Module):  # type: ignore[misc, name-defined]
        """Attention and dense layers."""

        def __init__(self, rngs: Any) -> None:
            self.one, self.two = nnx.LayerNorm(32, rngs=rngs), nnx.LayerNorm(32, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(4, 32, decode=False, rngs=rngs)
            self.wide, self.narrow = nnx.Linear(32, 64, rngs=rngs), nnx.Linear(64, 32, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            y = self.one(x)
            x = x + self.attention(y)
            return x + self.narrow(nnx.gelu(self.wide(self.two(x))))

    block = decorate(Block)

    def build() -> Any:
        rngs = nnx.Rngs(SEED)
        layers = [nnx.Linear(16, 32, rngs=rngs), block(rngs), block(rngs), nnx.LayerNorm(32, rngs=rngs)]
        return nnx.Sequential(*layers, nnx.Linear(32, 5, rngs=rngs))

    return Network(nnx.eval_shape(build), {"input": noise(2, 12, 16)})


def _export_jax(network: Network, opset: int, batched: bool) -> Exported:
    nnx, module, generator = library("flax.nnx"), network.module, np.random.default_rng(SEED)
    state = nnx.to_flat_state(nnx.state(module))
    for path, variable in state:  # these have shapes, but no values: JAX takes long to draw them
        shape = variable.get_value().shape
        values = generator.standard_normal(shape, np.float32) * np.prod(shape[:-1], dtype=np.float32) ** -0.5
        variable.set_value(library("jax.numpy").asarray(statistics(str(path[-1]), values, generator)))
    nnx.update(module, nnx.from_flat_state(state))
    module.eval()
    shapes = [("batch", *array.shape[1:]) if batched else array.shape for array in network.inputs.values()]
    names = list(network.inputs)
    model = library("jax2onnx").to_onnx(module, shapes, opset=opset, input_names=names, output_names=["output"])
    return Exported(model, [np.asarray(module(*network.inputs.values()))])


# Paddle


def paddle_resnet() -> Network:
    """ResNet with basic blocks."""
    nn, resnet = library("paddle.nn"), library("paddle.vision.models.resnet")

    def stage(inputs: int, outputs: int, stride: int) -> list[Any]:
        shortcut = nn.Sequential(nn.Conv2D(inputs, outputs, 1, stride, bias_attr=False), nn.BatchNorm2D(outputs))
        return [
            resnet.BasicBlock(inputs, outputs, stride, shortcut if stride > 1 else None),
            resnet.BasicBlock(outputs, outputs),
        ]

    layers = [nn.Conv2D(3, 16, 3, padding=1, bias_attr=False), nn.BatchNorm2D(16), nn.ReLU(), nn.MaxPool2D(2)]
    layers += [*stage(16, 16, 1), *stage(16, 24, 2), *stage(24, 32, 2)]
    layers += [nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(32, 10)]
    return Network(nn.Sequential(*layers), {"image": noise(2, 3, 32, 32)})


def paddle_mobilenet() -> Network:
    """MobileNetV3: squeeze and excitation, hard swish."""
    models = library("paddle.vision.models")
    return Network(models.MobileNetV3Small(scale=0.35, num_classes=10), {"image": noise(2, 3, 32, 32)})


def paddle_shufflenet() -> Network:
    """ShuffleNetV2: channels split and shuffled."""
    models = library("paddle.vision.models")
    return Network(models.shufflenet_v2_x0_25(num_classes=10), {"image": noise(2, 3, 32, 32)})


def paddle_lstm() -> Network:
    """Long short-term memory in both directions, on embedded words."""
    nn = library("paddle.nn")

    class Classifier(nn.Layer):  # type: ignore[misc, name-defined]
        """Words to classes."""

        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(100, 16)
            self.memory, self.head = nn.LSTM(16, 24, direction="bidirect"), nn.Linear(48, 5)

        def forward(self, words: Any) -> Any:
            return self.head(self.memory(self.words(words))[0].mean(1))

    return Network(Classifier(), {"words": indices(100, 2, 12)})


def paddle_transformer() -> Network:
    """An encoder of two layers."""
    nn = library("paddle.nn")
    layers = [nn.Linear(16, 32), nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, activation="gelu"), 2)]
    return Network(nn.Sequential(*layers, nn.Linear(32, 5)), {"input": noise(2, 12, 16)})


def _export_paddle(network: Network, opset: int, batched: bool) -> Exported:
    paddle, module, generator = library("paddle"), network.module, np.random.default_rng(SEED)
    for part in module.sublayers(include_self=True):
        for name, tensor in [
            *part.named_parameters(include_sublayers=False),
            *part.named_buffers(include_sublayers=False),
        ]:
            norm = {"weight": "gamma", "_mean": "mean", "_variance": "var"} if "Norm" in type(part).__name__ else {}
            values = tensor.numpy()
            if values.size:  # an LSTM has an empty buffer that cannot be set
                tensor.set_value(statistics(norm.get(name, name), values, generator))
    module.eval()
    inputs = [paddle.to_tensor(array) for array in network.inputs.values()]
    specs = [
        paddle.static.InputSpec([None if batched else len(array), *array.shape[1:]], str(array.dtype), name)
        for name, array in network.inputs.items()
    ]
    wanted = module(*inputs).numpy()
    with tempfile.TemporaryDirectory() as folder:
        paddle.onnx.export(module, f"{folder}/model", specs, opset)
        return Exported(onnx.load(f"{folder}/model.onnx"), [wanted])


def _builders(*found: Callable[[], Network]) -> dict[str, Callable[[], Network]]:
    return {builder.__name__: builder for builder in found}


FAMILIES = {
    "keras": Family(
        "tf2onnx",
        ((13, "fixed"), (17, "dynamic")),
        _builders(
            keras_resnet,
            keras_mobilenet_v2,
            keras_mobilenet_v3,
            keras_densenet,
            keras_efficientnet,
            keras_unet,
            keras_bilstm,
            keras_bigru,
            keras_transformer,
            keras_mlp,
        ),
        _export_keras,
    ),
    "sklearn": Family(
        "skl2onnx",
        ((13, "fixed"), (18, "dynamic")),
        _builders(sklearn_mlp, sklearn_logistic, sklearn_boosting, sklearn_pca_mlp),
        _export_sklearn,
    ),
    "jax": Family(
        "jax2onnx",
        ((21, "fixed"), (23, "dynamic")),
        _builders(jax_mlp, jax_cnn, jax_transformer, jax_transformer_functions),
        _export_jax,
    ),
    "paddle": Family(
        "paddle2onnx",
        ((13, "fixed"), (17, "dynamic")),
        _builders(paddle_resnet, paddle_mobilenet, paddle_shufflenet, paddle_lstm, paddle_transformer),
        _export_paddle,
    ),
}


def seed(family: str) -> None:
    """The same weights, and names, for each export."""
    if family == "keras":
        library("keras").backend.clear_session()
        library("keras").utils.set_random_seed(SEED)
    if family == "jax":  # it inlines a function that has the name of an earlier one
        plugins = library("jax2onnx.plugins.plugin_system")
        for registry in (plugins.PLUGIN_REGISTRY, plugins.ONNX_FUNCTION_PLUGIN_REGISTRY):
            for name in [n for n, plugin in registry.items() if isinstance(plugin, plugins.FunctionPlugin)]:
                del registry[name]
    if family == "paddle":
        library("paddle").seed(SEED)
        library("paddle").utils.unique_name.switch()


def make(family: str, builder: Callable[[], Network], entry: Entry) -> tuple[int, Entry]:
    """Build, export, check and store one structure, and say how many bytes it takes, and for which opset it is.

    Raises:
        RefusedError: what was exported does not do what the network does.
    """
    seed(family)
    network, batched = builder(), entry.batch == "dynamic"
    if not batched:
        network = network._replace(inputs={name: array[:1] for name, array in network.inputs.items()})
    model, wanted = FAMILIES[family].export(network, entry.opset, batched)
    opset = next(o.version for o in model.opset_import if o.domain == "")  # skl2onnx takes an earlier one that does
    path = entry.path.with_name(f"{entry.name}.{entry.exporter}.op{opset}.{entry.batch}{SUFFIX}")
    entry = entry._replace(opset=opset, path=path)
    clean(model)
    if batched:
        _name_batch(model)
    tensors = {name: torch.from_numpy(array) for name, array in network.inputs.items()}
    describe(model, Case(torch.nn.Module(), tensors, {}))
    compare(model, network.inputs, wanted)
    return store(model, entry), entry


def _name_batch(model: onnx.ModelProto) -> None:
    """Exporters name the batch of each input and output after a number, or not at all."""
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = "batch"


def compare(model: onnx.ModelProto, inputs: dict[str, Array], wanted: list[Array]) -> None:
    """Refuse a model that computes something else than the network."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, inputs)
    for name, a, b in zip([value.name for value in model.graph.output], found, wanted, strict=True):
        apart, size = float(np.abs(a - b).max()), float(np.abs(b).max())
        if a.shape != b.shape or apart > ALIKE * max(size, 1e-3):
            raise RefusedError(f"{name} is {apart:.1g} apart from the network's, of at most {size:.1g}")


def plan(family: str, globs: list[str]) -> Iterator[tuple[Callable[[], Network], Entry]]:
    """What is to be made."""
    exporter, variants, networks, _ = FAMILIES[family]
    for name, builder in networks.items():
        if any(fnmatchcase(name, glob) for glob in globs or ["*"]):
            for opset, batch in variants:
                path = STRUCTURES / "small" / f"{name}.{exporter}.op{opset}.{batch}{SUFFIX}"
                yield builder, Entry(name, exporter, opset, batch, "small", path)


def main() -> int:
    """Make the structures that the arguments name, and sum up what could not be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=list(FAMILIES))
    parser.add_argument("names", nargs="*", metavar="NAME-glob")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    failed = []
    for builder, entry in plan(options.family, options.names):
        try:
            with quiet():
                size, entry = make(options.family, builder, entry)
            print(f"{entry.label}: {size:,} bytes", flush=True)
        except Exception as error:
            failed.append(f"{entry.label}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            print("FAILED " + failed[-1], flush=True)
    print(f"{len(failed)} failed", *failed, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
